"""Ablation of an SAE's latents of a concept, and the answers of all probes afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.metrics.concepts.ablation import ablated_logits, attribution, latent_sums, latents_to_ablate
from saepipe.evaluate.metrics.concepts.probe_setup import ProbeSetup
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.texts.pooled import TextActivations, pooled_latents

_CHUNK_TEXTS = 512
"""Texts whose pooled latents are held at a time."""


@dataclass(frozen=True)
class AblatedLogits:
    """Logits of all probes on the test texts with the latents of each target concept ablated."""

    logits: Tensor
    """(num_targets, num_sizes, num_texts, num_concepts)"""
    num_ablated: Tensor
    """(num_targets, num_sizes) int64"""
    latents: list[list[int]]
    """per target, all latents ablated for any size, those with the largest effects first"""


@torch.no_grad()
def class_differences(subject: Subject, activations: TextActivations, signs: Tensor) -> Tensor:
    """Returns (num_concepts, d_sae) float32: mean pooled activation on positive examples less that on negative ones.

    Args:
        subject: the SAE.
        activations: activations of the training texts.
        signs: (num_concepts, num_texts).

    Raises:
        CorruptDataError: if an activation is NaN or Inf.
    """
    positive, negative = (signs > 0).float(), (signs < 0).float()
    weights = positive / positive.sum(1, keepdim=True) - negative / negative.sum(1, keepdim=True)
    differences = torch.zeros(len(signs), subject.sae.d_sae)
    for first in range(0, activations.num_texts, _CHUNK_TEXTS):
        last = min(first + _CHUNK_TEXTS, activations.num_texts)
        differences += weights[:, first:last] @ pooled_latents(subject, activations.texts(first, last))
    if not differences.isfinite().all():
        raise CorruptDataError(f"the SAE of {subject.name} has activations that are NaN or Inf")
    return differences


@torch.no_grad()
def ablate_targets(
    subject: Subject,
    setup: ProbeSetup,
    differences: Tensor,
    *,
    targets: Sequence[int],
    sizes: Sequence[int],
    signed: bool,
    mode: Mode,
) -> AblatedLogits:
    """Ablates the latents of each target concept and applies all probes to the test texts.

    The test texts are encoded once, and only in the latents that are ablated for any of the targets.

    Args:
        subject: the SAE.
        setup: the probes and the test texts.
        differences: (num_concepts, d_sae), see `class_differences`.
        targets: concepts whose latents are ablated.
        sizes: numbers of latents to ablate, in turn.
        signed: see `ablation.attribution`.
        mode: see `ablation.latents_to_ablate` and `ablation.latent_sums`.
    """
    probes, test = setup.probes, setup.test
    W_dec = subject.sae.W_dec.detach().float().cpu()
    effects = [attribution(differences[c], W_dec, probes.directions[c], signed=signed) for c in targets]
    by_target = [[latents_to_ablate(effect, size, mode) for size in sizes] for effect in effects]
    latents = torch.tensor(
        sorted({index for row in by_target for selected in row for index in selected.tolist()}), dtype=torch.int64
    )
    sums = latent_sums(subject, test, latents, mode)
    dots = W_dec[latents] @ probes.directions.T
    clean = probes.logits(test.pooled_target())
    logits = [
        ablated_logits(clean, sums, dots, test.num_tokens, torch.searchsorted(latents, selected))
        for row in by_target
        for selected in row
    ]
    shape = len(targets), len(sizes)
    num_ablated = torch.tensor([[len(selected) for selected in row] for row in by_target])
    return AblatedLogits(
        torch.stack(logits).view(*shape, *clean.shape), num_ablated, [max(row, key=len).tolist() for row in by_target]
    )


def bootstrap_weights(num_texts: int, num_resamples: int, seed: int) -> Tensor:
    """Returns (1 + num_resamples, num_texts) float64: counts of each text, 1 each in row 0, then resampled."""
    sampled = np.random.default_rng(seed).multinomial(num_texts, np.full(num_texts, 1 / num_texts), size=num_resamples)
    return torch.from_numpy(np.concatenate([np.ones((1, num_texts)), sampled]))


def accuracies(logits: Tensor, signs: Tensor, weights: Tensor) -> np.ndarray:
    """Returns the share of examples that each probe classifies correctly, (..., 1 + num_resamples, num_concepts).

    Clean and ablated accuracies on equal examples and weights are paired: only the ablation differs.

    Args:
        logits: (..., num_texts, num_concepts), one probe per concept.
        signs: (..., num_concepts, num_texts).
        weights: (1 + num_resamples, num_texts), see `bootstrap_weights`.
    """
    examples = (signs != 0).mT
    correct = ((logits > 0) == (signs > 0).mT) & examples

    def weighted_count(mask: Tensor) -> Tensor:
        return torch.tensordot(weights, mask.double(), dims=([1], [-2])).movedim(0, -2)

    return (weighted_count(correct) / weighted_count(examples)).numpy()
