"""One optimisation step of one run."""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.train.dead import any_dead, count_silence, dead_mask, resample
from saepipe.train.log import Measurement, measure
from saepipe.train.loss import Loss, compute_loss, forward
from saepipe.train.optim import update
from saepipe.train.schedule import last_resampling, learning_rate
from saepipe.train.state import Recipe, TrainState


def train_step(recipe: Recipe, state: TrainState, rows: Tensor, *, watched: bool = False) -> Measurement | None:
    """Trains on one batch.

    Args:
        recipe: what stays the same.
        state: changed in place.
        rows: raw activations (batch, d_in).
        watched: also measure the step (more backward passes). It changes nothing else: not a bit of the state.
    """
    config = recipe.config
    x = recipe.scaled(rows)
    if last_resampling(config.dead, state.step, recipe.num_steps) == state.step:
        resample(recipe, state, x)
    loss = step_loss(recipe, state, x)
    measurement = measure(recipe, state, loss) if watched else None
    gradients = torch.autograd.grad(loss.total, list(state.params.values()))
    lr = learning_rate(config.optimizer, config.dead, state.step, recipe.num_steps)
    update(state.adam, state.params, dict(zip(state.params, gradients, strict=True)), lr=lr, clip=config.optimizer.clip)
    count_silence(state.tokens_since_fired, loss.ctx.acts_sum.detach(), len(x))
    state.penalty_states = loss.penalty_states
    terms = [torch.stack([term.value, term.weighted]) for term in loss.terms.values()]
    state.sums.add_(torch.stack(terms).detach())
    state.num_summed += 1
    state.step += 1
    return measurement


def step_loss(recipe: Recipe, state: TrainState, x: Tensor) -> Loss:
    """The loss of the step that comes next, on x (batch, d_in) as `Recipe.scaled` gives it."""
    dead = dead_mask(recipe, state)
    ctx = forward(recipe.config, state.params, x, dead, any_dead=any_dead(recipe, state, dead), dtype=recipe.dtype)
    return compute_loss(recipe.config, ctx, state.penalty_states, state.step, recipe.num_steps)
