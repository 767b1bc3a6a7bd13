"""An SAE's latents of a concept are switched off, and all probes are asked again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.metrics.concepts.ablation import ablated_logits, attribution, latent_sums, select
from saepipe.evaluate.metrics.concepts.probe_setup import Bench, some_texts
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.pooled import TextActivations, pooled_latents

_TEXTS = 512
"""Whose pooled latents are held at a time."""


@dataclass(frozen=True)
class Without:
    """What the probes say of the test texts with the latents of a concept off."""

    logits: Tensor
    """(num_targets, num_sizes, num_texts, num_concepts)"""
    num_off: Tensor
    """(num_targets, num_sizes) int64: how many latents were off"""
    latents: list[list[int]]
    """of each target, all that were off for any size, those of the largest effects first"""


@torch.no_grad()
def class_differences(subject: Subject, activations: TextActivations, signs: Tensor) -> Tensor:
    """(num_concepts, d_sae) float32: each latent's mean pooled activation on positive examples less that on negative.

    Args:
        subject: the SAE.
        activations: of the training texts.
        signs: (num_concepts, num_texts).

    Raises:
        CorruptDataError: if an activation is NaN or Inf.
    """
    positive, negative = (signs > 0).float(), (signs < 0).float()
    weights = positive / positive.sum(1, keepdim=True) - negative / negative.sum(1, keepdim=True)
    differences = torch.zeros(len(signs), subject.sae.d_sae)
    for first in range(0, activations.num_texts, _TEXTS):
        last = min(first + _TEXTS, activations.num_texts)
        differences += weights[:, first:last] @ pooled_latents(subject, some_texts(activations, first, last))
    if not differences.isfinite().all():
        raise CorruptDataError(f"the SAE of {subject.name} has activations that are NaN or Inf")
    return differences


@torch.no_grad()
def without_latents(
    subject: Subject,
    bench: Bench,
    differences: Tensor,
    *,
    targets: Sequence[int],
    sizes: Sequence[int],
    signed: bool,
    mode: Mode,
) -> Without:
    """Switches off the latents of each target concept, and asks all probes about the test texts.

    The test texts are encoded once, and only in the latents that are off for any of the targets.

    Args:
        subject: the SAE.
        bench: the concepts and the test texts.
        differences: (num_concepts, d_sae), see `class_differences`.
        targets: concepts whose latents are switched off.
        sizes: how many, in turn.
        signed: see `ablation.attribution`.
        mode: see `ablation.select` and `ablation.latent_sums`.
    """
    concepts, test = bench.concepts, bench.test
    W_dec = subject.sae.W_dec.detach().float().cpu()
    effects = [attribution(differences[c], W_dec, concepts.directions[c], signed=signed) for c in targets]
    chosen = [[select(effect, size, mode) for size in sizes] for effect in effects]
    latents = torch.tensor(
        sorted({index for row in chosen for selected in row for index in selected.tolist()}), dtype=torch.int64
    )
    sums = latent_sums(subject, test, latents, mode)
    along = W_dec[latents] @ concepts.directions.T
    clean = concepts.logits(test.pooled())
    logits = [
        ablated_logits(clean, sums, along, test.num_tokens, torch.searchsorted(latents, selected))
        for row in chosen
        for selected in row
    ]
    shape = len(targets), len(sizes)
    num_off = torch.tensor([[len(selected) for selected in row] for row in chosen])
    return Without(
        torch.stack(logits).view(*shape, *clean.shape), num_off, [max(row, key=len).tolist() for row in chosen]
    )


def resamples(num_texts: int, draws: int, seed: int) -> Tensor:
    """(1 + draws, num_texts) float64: how often each text counts, first once each, then drawn with replacement."""
    drawn = np.random.default_rng(seed).multinomial(num_texts, np.full(num_texts, 1 / num_texts), size=draws)
    return torch.from_numpy(np.concatenate([np.ones((1, num_texts)), drawn]))


def accuracies(logits: Tensor, signs: Tensor, weights: Tensor) -> np.ndarray:
    """(..., 1 + draws, num_concepts): the share of examples that each probe gets right.

    Clean and ablated accuracies of equal examples and weights are paired: what differs is the ablation alone.

    Args:
        logits: (..., num_texts, num_concepts), a probe a concept.
        signs: (..., num_concepts, num_texts).
        weights: (1 + draws, num_texts), see `resamples`.
    """
    examples = (signs != 0).mT
    correct = ((logits > 0) == (signs > 0).mT) & examples

    def counted(chosen: Tensor) -> Tensor:
        return torch.tensordot(weights, chosen.double(), dims=([1], [-2])).movedim(0, -2)

    return (counted(correct) / counted(examples)).numpy()
