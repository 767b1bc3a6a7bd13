"""Detailed measurement of one step: the gradient of each term, L0, FVU, dead latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.train.sae.base import Params
from saepipe.train.step.learning_rate import learning_rate
from saepipe.train.step.loss import Loss
from saepipe.train.step.optim import remove_parallel
from saepipe.train.step.state import Recipe, TrainState


@dataclass(frozen=True)
class Measurement:
    """Figures of one step, for its log line."""

    gradient_norms: dict[str, float]  # of each weighted term, over all parameters, W_dec's parallel part removed
    gradient_norm: float  # of the whole loss, in the same way, before clipping
    statistics: dict[str, float]
    l0: float  # active latents per token, mean over the batch
    fvu: float  # |x - x_hat|^2 over |x - batch mean|^2, both summed over the batch
    dead: int
    lr: float
    sparse: bool


def measure(recipe: Recipe, state: TrainState, loss: Loss) -> Measurement:
    """Measures a step before its update, and keeps the graph of `loss` for that update."""
    config, ctx = recipe.config, loss.ctx
    gradients = {name: projected_gradient(term.weighted, state.params) for name, term in loss.terms.items()}
    total = [sum(parts) for parts in zip(*gradients.values(), strict=True)]
    error = (ctx.x - ctx.x_hat).detach().square().sum()
    variance = (ctx.x - ctx.x.mean(0)).square().sum()
    return Measurement(
        gradient_norms={name: _norm(gradient) for name, gradient in gradients.items()},
        gradient_norm=_norm(total),
        statistics={name: float(value) for name, value in loss.statistics.items()},
        l0=float(ctx.l0),
        fvu=float(error / variance),
        dead=int(ctx.dead.sum()),
        lr=learning_rate(config.optimizer, config.dead, state.step, recipe.num_steps),
        sparse=state.sparse,
    )


def projected_gradient(term: Tensor, params: Params) -> list[Tensor]:
    """Returns the optimiser's gradient if `term` () were the whole loss, one tensor per parameter; 0 for a constant."""
    zeros = {name: torch.zeros_like(value) for name, value in params.items()}
    if not term.requires_grad:
        return list(zeros.values())
    partials = torch.autograd.grad(term, list(params.values()), retain_graph=True, allow_unused=True)
    gradients = {name: zeros[name] if g is None else g for name, g in zip(params, partials, strict=True)}
    remove_parallel(gradients, params["W_dec"])
    return list(gradients.values())


def _norm(gradient: Sequence[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(gradient))
