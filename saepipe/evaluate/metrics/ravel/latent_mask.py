"""The latents of an attribute, learned: differential binary masking over an SAE's latents.

The multi-task loss is RAVEL's (Huang et al. 2024, arXiv 2402.17700, section 4); the mask over latents, its schedule and
its defaults are those of SAEBench 0.6.0 (MDBM).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.evaluate.metrics.ravel.interchange import changes_of_acts, interchange
from saepipe.evaluate.metrics.ravel.pair_inputs import PairBatch, PairInputs
from saepipe.evaluate.metrics.ravel.teacher_forcing import continues, target_loss
from saepipe.evaluate.model.upper_layers import UpperLayers
from saepipe.evaluate.sae.subject import Subject

_LAST_TEMPERATURE = 1e-4


@dataclass(frozen=True)
class MaskTraining:
    """Settings of the training."""

    learning_rate: float
    num_epochs: int
    batch_size: int
    seed: int


def learn_mask(
    subject: Subject,
    upper_layers: UpperLayers,
    inputs: PairInputs,
    rows: Tensor,
    training: MaskTraining,
    advance: Callable[[int], None],
) -> Tensor:
    """Returns the latents whose swap changes the attribute and leaves the others alone, (d_sae,) bool.

    A latent j has a logit theta_j, 0 at first. In training the share sigmoid(theta_j / T) of its change is written, T
    falling from 1 to 1e-4 evenly in log T; Adam lowers the loss of the targets by theta alone. A latent is selected if
    theta_j > 0 in the end, so one that never differs between base and source is not.

    Args:
        subject: the SAE.
        upper_layers: the model from the hook upward.
        inputs: the pairs.
        rows: indices of the pairs to train on.
        training: settings.
        advance: told how many pairs were trained on.
    """
    W_dec = subject.sae.W_dec.detach().float()
    theta = torch.zeros(subject.sae.d_sae, device=W_dec.device, requires_grad=True)
    adam = torch.optim.Adam([theta], lr=training.learning_rate)
    order = _epochs(rows, training)
    temperatures = torch.logspace(0, torch.tensor(_LAST_TEMPERATURE).log10().item(), len(order)).tolist()
    for step_rows, temperature in zip(order, temperatures, strict=True):
        batch = inputs.batch(step_rows)
        with torch.enable_grad():
            logits = _swapped_logits(subject, upper_layers, batch, torch.sigmoid(theta / temperature), W_dec)
            (theta.grad,) = torch.autograd.grad(target_loss(logits, batch.labels), theta)
        adam.step()
        advance(len(step_rows))
    return theta.detach() > 0


@torch.no_grad()
def swap_latents(
    subject: Subject,
    upper_layers: UpperLayers,
    inputs: PairInputs,
    rows: Tensor,
    selected: Tensor,
    batch_size: int,
) -> Tensor:
    """Returns whether each pair has its target with the selected latents swapped, (num_rows,) bool, in order.

    Args:
        subject: the SAE.
        upper_layers: the model from the hook upward.
        inputs: the pairs.
        rows: indices of the pairs to test.
        selected: (d_sae,) bool.
        batch_size: pairs at a time.
    """
    W_dec = subject.sae.W_dec.detach().float()
    reached = torch.zeros(len(inputs), dtype=torch.bool)
    for batch in inputs.batches(rows, batch_size):
        logits = _swapped_logits(subject, upper_layers, batch, selected.to(W_dec), W_dec)
        reached[batch.rows] = continues(logits, batch.labels)
    return reached[rows]


def _swapped_logits(
    subject: Subject, upper_layers: UpperLayers, batch: PairBatch, mask: Tensor, W_dec: Tensor
) -> Tensor:
    """Returns logits (batch, seq, vocab) with the share `mask` (d_sae,) of each latent's change written."""
    changes = changes_of_acts(subject, batch.x_base, batch.x_source)
    return upper_layers(batch.ids, interchange(batch.x, batch.positions, mask * changes, W_dec))


def _epochs(rows: Tensor, training: MaskTraining) -> list[Tensor]:
    """Returns the indices of each step's pairs, shuffled anew in each epoch."""
    generator = torch.Generator().manual_seed(training.seed)
    batches: list[Tensor] = []
    for _ in range(training.num_epochs):
        batches += torch.split(rows[torch.randperm(len(rows), generator=generator)], training.batch_size)
    return batches
