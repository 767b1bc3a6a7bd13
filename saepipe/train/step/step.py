"""One optimisation step of one run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saepipe.data.batches.staging_memory import to_device
from saepipe.train.config import KL_TAIL
from saepipe.train.schedule import Controller, controllers, settings_at
from saepipe.train.seeds import generator
from saepipe.train.setting import SettingsNow
from saepipe.train.step.dead import any_dead, count_silence, resample
from saepipe.train.step.density import density, next_is_sparse, starts_sparse, thresholds_at
from saepipe.train.step.kl_tail import CleanWindows, kl_term
from saepipe.train.step.learning_rate import last_resampling, learning_rate
from saepipe.train.step.loss import Loss, Moment, compute_loss
from saepipe.train.step.measure import Measurement, measure_due
from saepipe.train.step.optim import update
from saepipe.train.step.sampling import Due
from saepipe.train.step.state import Recipe, TrainState
from saepipe.train.step.tile_loss import tile_loss


def train_step(
    recipe: Recipe, state: TrainState, rows: Tensor, due: Due = Due.NOTHING, windows: CleanWindows | None = None
) -> Measurement | None:
    """Trains on one batch.

    Args:
        recipe: of the run.
        state: changed in place.
        rows: raw activations (batch, d_in), or (batch, d_in + d_out) with a transcoder's target.
        due: what to measure the step for (gradients: more backward passes). This changes no bit of the training.
        windows: of the step, in the KL tail.
    """
    choose_path(recipe, state)
    recipe = recipe.at(state.step)
    config = recipe.config
    scaled = recipe.scaled(rows)
    if last_resampling(config.dead, state.step, recipe.num_steps) == state.step:
        resample(recipe, state, scaled)
    loss = step_loss(recipe, state, scaled, windows)
    measurement = measure_due(recipe, state, loss, due)
    lr = learning_rate(config.optimizer, config.dead, state.step, recipe.num_steps)
    finish_step(recipe, state, loss, loss.factors, lr)
    thresholds = thresholds_at(state.step, config, recipe.d_in, recipe.device)
    if thresholds is not None:
        state.sparse = next_is_sparse(state.sparse, density(config, state.all_params, loss), thresholds)
    state.num_summed += 1
    state.step += 1
    return measurement


def choose_path(recipe: Recipe, state: TrainState) -> None:
    """Decides whether the next step is sparse, if the number of active latents follows a schedule."""
    config = recipe.config
    if config.sae.settings() and config.sparse_steps == "auto":
        state.sparse = starts_sparse(recipe.at(state.step).config, recipe.d_in, recipe.device)


def finish_step(recipe: Recipe, state: TrainState, loss: Loss, factors: Tensor, lr: float | Tensor) -> None:
    """Updates every tensor of the state, of which the host needs to know no value.

    Args:
        recipe: of the run.
        state: changed in place, but for `steered` and `states`, which become new dicts.
        loss: of the step.
        factors: `Loss.factors`.
        lr: learning rate.
    """
    params, config = state.params, recipe.config
    gradients = dict(zip(params, loss.gradients(params, factors), strict=True))
    state.steered = steer(recipe, state.step, loss, state.steered)  # before the update: it may read statistics
    skip, cosine = config.skip_settings, config.freeze_cosine
    update(params, gradients, state.moments, lr, config.optimizer, skip, cosine, recipe.mesh)
    record(state, loss, factors)


def record(state: TrainState, loss: Loss, factors: Tensor) -> None:
    """Counts silent latents, adds the terms to the log's sums and takes over the states that a loss leaves behind."""
    count_silence(state.tokens_since_fired, loss.encoded_sum, len(loss.ctx.x))
    state.states = loss.states
    with torch.no_grad():
        for name, value in loss.buffers.items():
            state.buffers[name].copy_(value)
        state.sums.addcmul_(loss.values.unsqueeze(1), factors)


def step_loss(recipe: Recipe, state: TrainState, rows: Tensor, windows: CleanWindows | None = None) -> Loss:
    """Computes the loss of the next step on rows scaled by `Recipe.scaled` and, in the KL tail, on its windows."""
    recipe, moment = recipe.at(state.step), next_moment(recipe, state)
    if recipe.mesh is not None:
        return tile_loss(recipe.config, state.all_params, rows, moment, recipe.dtype, recipe.mesh)
    loss = compute_loss(recipe.config, state.all_params, rows, moment, recipe.dtype, sparse=state.sparse)
    if not recipe.config.kl_tail.share:
        return loss
    return loss.with_term(KL_TAIL, kl_term(recipe, state, loss, windows))


def next_moment(recipe: Recipe, state: TrainState) -> Moment:
    """Returns what the loss of the next step depends on besides parameters and rows."""
    return Moment(
        step=state.step,
        num_steps=recipe.num_steps,
        seed=recipe.config.seed,
        tokens_since_fired=state.tokens_since_fired,
        dead_after=recipe.dead_after,
        widths=recipe.widths,
        scale=recipe.channel_scale,
        any_dead=any_dead(recipe, state.step, state.tokens_since_fired),
        uniform=uniform(recipe, state.step),
        now=settings_now(recipe, state.step, state.steered),
        states=state.states,
    )


def settings_now(recipe: Recipe, step: int, steered: Mapping[str, Tensor]) -> dict[str, SettingsNow]:
    """Returns every movable setting's value at a step, by label; `steered` is by `<label>.<setting>`."""
    return {
        label: settings_at(
            component, step, recipe.num_steps, {name: steered[f"{label}.{name}"] for name in controllers(component)}
        )
        for label, component in recipe.config.components()
    }


def uniform(recipe: Recipe, step: int) -> Tensor | None:
    """Draws (d_sae,) random numbers of the run's seed and a step, if one of its penalties uses them there."""
    if not any(penalty.draws_at(step) for penalty in recipe.config.penalties):
        return None
    numbers = torch.rand(recipe.config.sae.d_sae, generator=generator(recipe.config.seed, "penalties", step))
    return to_device(numbers, recipe.device)


def steer(recipe: Recipe, step: int, loss: Loss, steered: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the controllers' states after a step, each moved by the quantity that it watches."""
    moved = {}
    for label, component in recipe.config.components():
        for name, controller in controllers(component).items():
            key, quantity = f"{label}.{name}", _quantity(loss, label, controller)
            moved[key] = controller.moved(steered[key], quantity, step, recipe.num_steps)
    return moved


def _quantity(loss: Loss, label: str, controller: Controller) -> Tensor:
    if controller.steer == "l0":
        return loss.ctx.l0
    return loss.statistics[f"{label}/{controller.steer}"]
