"""A step of one run as a function of tensors, to be traced."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from saepipe.train.sae.base import Params
from saepipe.train.sae.room import Room
from saepipe.train.schedule import constant_settings
from saepipe.train.step.loss import Moment, compute_loss
from saepipe.train.step.optim import Moments
from saepipe.train.step.state import Recipe, TrainState, overwrite
from saepipe.train.step.step import finish_step


class StepTensors(NamedTuple):
    """Everything that a settled step reads; it changes the tensors of the state, the first seven, in place."""

    params: Params
    buffers: Params
    moments: Moments
    tokens_since_fired: Tensor
    states: dict[str, Params]
    steered: Params
    sums: Tensor
    rows: Tensor  # (batch, d_in), as they come from the cache
    lr: Tensor  # ()
    factors: Tensor  # `Loss.factors`
    moving: dict[str, Params]  # () each: the settings that change from step to step
    uniform: tuple[Tensor, ...]  # one, if the step draws
    counted: tuple[Tensor, ...] = ()  # pre-activations (batch, d_sae) and numbers of entries (2,), if it counts first


def settled_step(
    recipe: Recipe,
    step: int,
    tensors: StepTensors,
    *,
    any_dead: bool,
    sparse: bool,
    room: tuple[int, int] | None = None,
) -> None:
    """Makes a step that is neither measured nor resamples; a function of tensors alone.

    With `room`, for entries and near ones, it goes on from the pre-activations in `tensors.counted`.
    """
    state = TrainState(
        step=step,
        params={name: value.detach().requires_grad_() for name, value in tensors.params.items()},
        buffers=tensors.buffers,
        moments=tensors.moments,
        tokens_since_fired=tensors.tokens_since_fired,
        states=tensors.states,
        steered=tensors.steered,
        sums=tensors.sums,
        num_summed=0,
        sampled=None,
        sparse=sparse,
    )
    moment = Moment(
        step=step,
        num_steps=recipe.num_steps,
        seed=recipe.config.seed,
        tokens_since_fired=tensors.tokens_since_fired,
        dead_after=recipe.dead_after,
        widths=recipe.widths,
        any_dead=any_dead,
        uniform=tensors.uniform[0] if tensors.uniform else None,
        now={
            label: constant_settings(component) | tensors.moving[label]
            for label, component in recipe.config.components()
        },
        states=tensors.states,
        room=None if room is None else Room(tensors.counted[0], *room),
    )
    x = recipe.scaled(tensors.rows)
    loss = compute_loss(recipe.config, state.all_params, x, moment, recipe.dtype, sparse=sparse)
    finish_step(recipe, state, loss, tensors.factors, tensors.lr)
    keep(tensors.states, state.states)
    keep({"": tensors.steered}, {"": state.steered})


@torch.no_grad()
def keep(old: Mapping[str, Params], new: Mapping[str, Params]) -> None:
    """Copies new values into the tensors of the same names, but for those that a component passed on as they were."""
    memory = {_memory(value) for own in old.values() for value in own.values()}
    for label, own in old.items():
        changed = {name: value for name, value in new[label].items() if _memory(value) != _memory(own[name])}
        # A value that is another's old one must be read before that is overwritten.
        ready = {name: value.clone() if _memory(value) in memory else value for name, value in changed.items()}
        overwrite(own, ready)


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
