"""Detailed measurement of steps for the log: L0, FVU and dead latents of a line's step, gradients of a sampled one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import torch
from torch import Tensor

from saepipe.train.parallel.mesh import Mesh
from saepipe.train.sae.base import Params
from saepipe.train.step.learning_rate import learning_rate
from saepipe.train.step.loss import Loss
from saepipe.train.step.optim import remove_parallel, whole_norm
from saepipe.train.step.sampling import Due, GradientSample
from saepipe.train.step.state import Recipe, TrainState


@dataclass(frozen=True)
class Measurement:
    """Figures of one step, for its log line."""

    l0: float  # active latents per token, mean over the batch
    fvu: float  # |target - x_hat|^2 over |target - batch mean|^2, both summed over the batch
    dead: int
    lr: float
    sparse: bool


def measure_due(recipe: Recipe, state: TrainState, loss: Loss, due: Due) -> Measurement | None:
    """Measures a step before its update; gradients wait in the state for their line, figures are returned."""
    if Due.GRADIENTS in due:
        state.sampled = sample_gradients(state, loss, recipe.mesh)
    return measure(recipe, state, loss) if Due.LINE in due else None


def sample_gradients(state: TrainState, loss: Loss, mesh: Mesh | None = None) -> GradientSample:
    """Measures the gradients of a step before its update, and keeps the graph of `loss` for that update."""
    gradients = {name: projected_gradient(term.weighted, state.params) for name, term in loss.terms.items()}
    total = {name: reduce(add, (gradient[name] for gradient in gradients.values())) for name in state.params}
    return GradientSample(
        step=state.step + 1,
        norms={name: float(whole_norm(gradient, mesh)) for name, gradient in gradients.items()},
        total_norm=float(whole_norm(total, mesh)),
        statistics={name: float(value) for name, value in loss.statistics.items()},
    )


def measure(recipe: Recipe, state: TrainState, loss: Loss) -> Measurement:
    """Measures the figures of a step before its update."""
    config, ctx = recipe.config, loss.ctx
    error = (ctx.target - ctx.x_hat).detach().square().sum()
    variance = (ctx.target - ctx.target.mean(0)).square().sum()
    return Measurement(
        l0=float(ctx.l0),
        fvu=float(error / variance),
        dead=int(ctx.dead.sum()),
        lr=learning_rate(config.optimizer, config.dead, state.step, recipe.num_steps),
        sparse=state.sparse,
    )


def projected_gradient(term: Tensor, params: Params) -> Params:
    """Returns the optimiser's gradient, by parameter, if `term` () were the whole loss; 0 for a constant."""
    zeros = {name: torch.zeros_like(value) for name, value in params.items()}
    if not term.requires_grad:
        return zeros
    partials = torch.autograd.grad(term, list(params.values()), retain_graph=True, allow_unused=True)
    gradients = {name: zeros[name] if g is None else g for name, g in zip(params, partials, strict=True)}
    remove_parallel(gradients, params)
    return gradients
