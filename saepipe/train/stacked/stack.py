"""Small runs of one structure trained as one: every tensor has a leading axis of runs.

`compute_loss` sees one run, as always; torch.func.vmap runs them side by side, so a matrix product becomes one batched
product and the cost of Python is paid once. `saepipe.train.stacked.teams` decides which runs are stacked.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map

from saepipe.data.batches.staging_memory import to_device
from saepipe.data.errors import ConfigError
from saepipe.train.captured.runners import runner_of
from saepipe.train.captured.traces import Traces
from saepipe.train.config import RECONSTRUCTION
from saepipe.train.sae.base import Params
from saepipe.train.schedule import controllers
from saepipe.train.stacked.optim import norm_each, update_each
from saepipe.train.stacked.slices import shared
from saepipe.train.step.dead import any_dead, count_silence
from saepipe.train.step.learning_rate import learning_rate
from saepipe.train.step.loss import Moment, compute_loss
from saepipe.train.step.measure import projected_gradient
from saepipe.train.step.optim import Moments
from saepipe.train.step.state import Recipe, TrainState, overwrite
from saepipe.train.step.step import settings_now, steer, uniform

MOVING = ("lr", "warmup", "decay")
"""Settings of the optimiser in which stacked runs may differ."""

Overrides = Mapping[str, Tensor]
"""Settings of the next step by `<label>.<setting>`, (num_runs,) each, that replace those of the configs."""

NONE: Overrides = MappingProxyType({})


@dataclass(frozen=True)
class Shares:
    """How strongly each term of the loss pulls in each run; the part parallel to W_dec's rows is removed."""

    gradient_norms: dict[str, Tensor]  # (num_runs,) of each weighted term, over all parameters
    statistics: dict[str, Tensor]  # (num_runs,) each

    def share(self, label: str) -> Tensor:
        """Returns the norm of a term's gradient over the norm of the reconstruction's, (num_runs,)."""
        return self.gradient_norms[label] / self.gradient_norms[RECONSTRUCTION]


class StackState(NamedTuple):
    """What a stack's steps change, in place; every tensor has a leading axis of runs."""

    params: Params
    buffers: Params
    moments: Moments
    tokens_since_fired: Tensor
    states: dict[str, Params]
    steered: Params
    sums: Tensor


class Inputs(NamedTuple):
    """What the host gives to one step."""

    x: Tensor  # (batch, d_in) for all runs, or (num_runs, batch, d_in), one each
    now: dict[str, Params]  # settings by label, (num_runs,) each
    uniform: tuple[Tensor, ...]  # (num_runs, d_sae), if a penalty draws
    lrs: tuple[float | Tensor, ...]  # one per stretch of runs with equal rates


class _Varying(NamedTuple):
    """The parts of `Moment` that differ between runs; every tensor has a leading axis of runs."""

    tokens_since_fired: Tensor
    now: dict[str, Params]
    states: dict[str, Params]
    steered: Params
    uniform: tuple[Tensor, ...]


class _Losses(NamedTuple):
    """Every run's loss in parts; every tensor has a leading axis of runs."""

    values: dict[str, Tensor]
    weighted: dict[str, Tensor]
    statistics: dict[str, Tensor]
    encoded_sum: Tensor
    states: dict[str, Params]
    buffers: Params
    steered: Params


class Stack:
    """A faster way to make one step of each of several runs; each ends where it would end alone, up to rounding.

    The tensors of the runs' states become slices of shared tensors (num_runs, ...). Each state can still be measured,
    saved and judged as if it were alone, but while it is in a stack only the stack makes its steps.
    """

    def __init__(self, runs: Sequence[tuple[Recipe, TrainState]], say: Callable[[str], None] = lambda _: None) -> None:
        """Takes over runs that are at the same step, whichever it is; `say` is told of steps that are not captured.

        Raises:
            ConfigError: if they cannot be stacked.
        """
        self.recipes, self._runs = [recipe for recipe, _ in runs], [state for _, state in runs]
        _refuse_unlike(self.recipes, self._runs)
        self.first = self.recipes[0]
        for state in self._runs:
            # A penalty may begin with one tensor under several names; each name needs memory of its own.
            state.states = {label: {name: t.clone() for name, t in own.items()} for label, own in state.states.items()}
        self._state = StackState(*(shared([getattr(each, part) for each in self._runs]) for part in StackState._fields))
        self._sent: dict[tuple[str, str], tuple[Sequence[float], Tensor]] = {}
        runner = runner_of(self.first)
        self._traces = Traces(runner, say) if runner else None
        self._say, self._told = say, False
        self._fixed: dict[Hashable, Inputs] = {}

    @property
    def params(self) -> Params:
        """Parameters and buffers, (num_runs, ...) each."""
        return {**self._state.params, **self._state.buffers}

    def step(self, x: Tensor, overrides: Overrides = NONE) -> None:
        """Trains every run on x, float32 and scaled: (batch, d_in) for all, or (num_runs, batch, d_in), one each."""
        step, inputs, dead = self._runs[0].step, self._inputs(x, overrides), self._any_dead()
        if self._traces is None or self._moves(step) or not self._replayed(self._traces, inputs, any_dead=dead):
            self._make(self.first.at(step), step, self._state, inputs, any_dead=dead)
        for state in self._runs:
            state.step += 1
            state.num_summed += 1

    def measure(self, x: Tensor, overrides: Overrides = NONE) -> Shares:
        """Measures the gradient of each term at the next step, on x as for `step`. Changes nothing."""
        state, inputs = _with_leaves(self._state), self._inputs(x, overrides)
        step, dead = self._runs[0].step, self._any_dead()
        losses = self._forward(self.first.at(step), step, state, inputs, any_dead=dead, with_statistics=True)
        norms = {
            name: norm_each(projected_gradient(value.sum(), state.params)) for name, value in losses.weighted.items()
        }
        return Shares(norms, losses.statistics)

    def _moves(self, step: int) -> bool:
        """Returns whether the architecture follows a schedule at a step, so that it is not captured; says so once."""
        moves = self.first.moves_at(step)
        if moves and not self._told:
            self._told = True
            self._say("steps are captured once the schedule of the architecture has ended; until then they are plain")
        return moves

    def _replayed(self, traces: Traces, inputs: Inputs, *, any_dead: bool) -> bool:
        """Makes a step from a trace; returns False if it must be made plainly."""
        dtype = torch.float64 if self.first.device.type == "cpu" else torch.float32  # of a rate, for fused Adam
        rates = (lr for lr, _ in groupby(self._learning_rates()))
        lrs = tuple(torch.full((), lr, dtype=dtype, device=self.first.device) for lr in rates)
        inputs = inputs._replace(lrs=lrs)
        key = any_dead, tuple(self._stretches()), *((tuple(each.shape), each.dtype) for each in tree_leaves(inputs))
        fixed = self._fixed.setdefault(key, tree_map(torch.empty_like, inputs))
        for old, new in zip(tree_leaves(fixed), tree_leaves(inputs), strict=True):
            old.copy_(new)

        recipe = self.first.at(self._runs[0].step)

        def function(step: int, tensors: tuple[StackState, Inputs]) -> None:
            self._make(recipe, step, *tensors, any_dead=any_dead)

        return traces.replay(key, self._runs[0].step, function, (self._state, fixed))

    def _make(self, recipe: Recipe, step: int, state: StackState, inputs: Inputs, *, any_dead: bool) -> None:
        """Makes a step: a function of tensors alone, which changes those of `state` in place, by its recipe."""
        state = _with_leaves(state)
        params, losses = state.params, self._forward(recipe, step, state, inputs, any_dead=any_dead)
        # A run's parameters reach only its own part of the sum, so its gradient is that of its own loss.
        total = torch.stack(list(losses.weighted.values())).sum()
        gradients = dict(zip(params, torch.autograd.grad(total, list(params.values())), strict=True))
        rates = list(zip(self._stretches(), inputs.lrs, strict=True))
        config = self.first.config
        update_each(params, gradients, state.moments, rates, config.optimizer, config.freeze_cosine)
        with torch.no_grad():
            count_silence(state.tokens_since_fired, losses.encoded_sum, inputs.x.shape[-2])
            overwrite(state.states, losses.states)
            overwrite(state.steered, losses.steered)
            overwrite(state.buffers, losses.buffers)
            terms = [torch.stack([value, losses.weighted[name]], dim=1) for name, value in losses.values.items()]
            state.sums.add_(torch.stack(terms, dim=1))

    def _forward(
        self,
        first: Recipe,
        step: int,
        state: StackState,
        inputs: Inputs,
        *,
        any_dead: bool,
        with_statistics: bool = False,
    ) -> _Losses:
        """Computes the loss of every run; `first` is the first one's recipe of the step."""
        varying = _Varying(state.tokens_since_fired, inputs.now, state.states, state.steered, inputs.uniform)

        def of_one_run(params: Params, buffers: Params, x: Tensor, varying: _Varying) -> _Losses:
            moment = Moment(
                step=step,
                num_steps=first.num_steps,
                seed=first.config.seed,  # read only by transforms
                tokens_since_fired=varying.tokens_since_fired,
                dead_after=first.dead_after,
                widths=first.widths,
                any_dead=any_dead,
                uniform=varying.uniform[0] if varying.uniform else None,
                now=varying.now,
                states=varying.states,
            )
            loss = compute_loss(first.config, {**params, **buffers}, x, moment, first.dtype)
            return _Losses(
                values={name: term.value.detach() for name, term in loss.terms.items()},
                weighted={name: term.weighted for name, term in loss.terms.items()},
                statistics=loss.statistics if with_statistics else {},
                encoded_sum=loss.encoded_sum,
                states=loss.states,
                buffers=dict(loss.buffers),
                steered=steer(first, step, loss, varying.steered),
            )

        in_dims = (0, 0, None if inputs.x.dim() == 2 else 0, 0)
        losses: _Losses = vmap(of_one_run, in_dims=in_dims)(state.params, state.buffers, inputs.x, varying)
        return losses

    def _any_dead(self) -> bool:
        return any_dead(self.first, self._runs[0].step, self._state.tokens_since_fired)

    def _inputs(self, x: Tensor, overrides: Overrides) -> Inputs:
        step = self._runs[0].step
        numbers = [sample for recipe in self.recipes if (sample := uniform(recipe, step)) is not None]
        drawn = (torch.stack(numbers),) if numbers else ()
        return Inputs(x, self._settings_now(overrides), drawn, tuple(lr for lr, _ in groupby(self._learning_rates())))

    def _settings_now(self, overrides: Overrides) -> dict[str, dict[str, Tensor]]:
        """Returns every movable setting's value in each run, (num_runs,), by label."""
        runs = [settings_now(recipe, self._runs[0].step, self._state.steered) for recipe in self.recipes]
        now = {
            label: {
                name: value
                if isinstance(value, Tensor)
                else self._on_device(label, name, [run[label][name] for run in runs])
                for name, value in settings.items()
            }
            for label, settings in runs[0].items()
        }
        for key, values in overrides.items():
            label, _, name = key.partition(".")
            now[label][name] = values
        return now

    def _on_device(self, label: str, name: str, values: Sequence[Any]) -> Tensor:
        """Returns a setting's numbers as (num_runs,), sent only when one has changed and without waiting."""
        sent, tensor = self._sent.get((label, name), (None, None))
        if tensor is None or sent != values:
            tensor = to_device(torch.tensor(values, dtype=torch.float32), self.first.device)
            self._sent[label, name] = values, tensor
        return tensor

    def _learning_rates(self) -> list[float]:
        step, num_steps = self._runs[0].step, self.first.num_steps
        return [learning_rate(recipe.config.optimizer, recipe.config.dead, step, num_steps) for recipe in self.recipes]

    def _stretches(self) -> list[int]:
        """Returns the number of runs in each stretch of equal learning rates."""
        return [len(list(neighbours)) for _, neighbours in groupby(self._learning_rates())]


def _with_leaves(state: StackState) -> StackState:
    """Returns the state with parameters that require a gradient, in the same memory."""
    return state._replace(params={name: value.detach().requires_grad_() for name, value in state.params.items()})


def _refuse_unlike(recipes: Sequence[Recipe], states: Sequence[TrainState]) -> None:
    """Raises ConfigError unless the runs have the same structure and step, and a stack can make their steps."""
    if reason := next(filter(None, map(why_not_stackable, recipes)), None):
        raise ConfigError(f"runs cannot be stacked: one {reason}")
    structures = {repr(structure(recipe)) for recipe in recipes}
    if len(structures) > 1:
        raise ConfigError(
            f"runs of {len(structures)} structures cannot be stacked", hint="stack runs of the same structure"
        )
    assert len({state.step for state in states}) == 1, "runs are stacked at one step"


def why_not_stackable(recipe: Recipe) -> str | None:
    """Returns what depends on a run's own values or seed in a way that a stack cannot reproduce, or None."""
    if recipe.mesh is not None:
        return "is split over ranks"
    if recipe.config.dead.resample_steps:
        return "resamples dead latents"
    if recipe.config.skip:
        return "has a skip, which learns at a rate of its own"
    if recipe.config.kl_tail.share:
        return "runs the language model in its last steps"
    return "transforms activations" if recipe.config.transforms else None


def structure(recipe: Recipe) -> Any:
    """Returns the config without seeds, start, learning rate and values of settings; equal ones can be stacked."""
    raw = recipe.config.identity() | {"seed": 0, "data_seed": 0}
    raw["init"] = {key: value for key, value in raw["init"].items() if key != "weights"}
    raw["optimizer"] = {key: value for key, value in raw["optimizer"].items() if key not in MOVING}
    raw["penalties"] = [
        {key: value for key, value in penalty.to_dict().items() if key not in penalty.settings()}
        | {name: controller.to_dict() for name, controller in controllers(penalty).items()}
        for penalty in recipe.config.penalties
    ]
    shapes = [
        (label, name, tuple(tensor.shape))
        for label, component in recipe.config.components()
        for name, tensor in component.init_state(recipe.d_in, recipe.config.sae.d_sae).items()
    ]
    return raw, shapes, recipe.d_in, str(recipe.device), recipe.config.compile
