"""Small runs of one structure trained as one: every tensor has a leading axis of runs.

`compute_loss` sees one run, as always; torch.func.vmap runs them side by side, so a matrix product becomes one batched
product and the cost of Python is paid once. `saepipe.train.stacked.teams` decides which runs are stacked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import vmap

from saepipe.data.batches.staging_memory import to_device
from saepipe.data.errors import ConfigError
from saepipe.train.sae.base import Params
from saepipe.train.schedule import controllers
from saepipe.train.stacked.optim import norm_each, update_each
from saepipe.train.stacked.slices import shared
from saepipe.train.step.dead import any_dead, count_silence
from saepipe.train.step.learning_rate import learning_rate
from saepipe.train.step.loss import RECONSTRUCTION, Moment, compute_loss
from saepipe.train.step.measure import projected_gradient
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


class _Varying(NamedTuple):
    """The parts of `Moment` that differ between runs; every tensor has a leading axis of runs."""

    tokens_since_fired: Tensor
    now: dict[str, dict[str, Tensor]]
    states: dict[str, Params]
    steered: Params
    uniform: tuple[Tensor, ...]  # empty if no penalty draws


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

    def __init__(self, runs: Sequence[tuple[Recipe, TrainState]]) -> None:
        """Takes over runs that are at the same step, whichever it is.

        Raises:
            ConfigError: if they cannot be stacked.
        """
        self.recipes, self._runs = [recipe for recipe, _ in runs], [state for _, state in runs]
        _refuse_unlike(self.recipes, self._runs)
        self.first = self.recipes[0]
        for state in self._runs:
            # A penalty may begin with one tensor under several names; each name needs memory of its own.
            state.states = {label: {name: t.clone() for name, t in own.items()} for label, own in state.states.items()}
        self._moments: dict[str, dict[str, Tensor]] = shared([state.moments for state in self._runs])
        self._params: Params = shared([state.params for state in self._runs])
        self._buffers: Params = shared([state.buffers for state in self._runs])
        self._tokens_since_fired: Tensor = shared([state.tokens_since_fired for state in self._runs])
        self._states: dict[str, Params] = shared([state.states for state in self._runs])
        self._steered: Params = shared([state.steered for state in self._runs])
        self._sums: Tensor = shared([state.sums for state in self._runs])
        self._sent: dict[tuple[str, str], tuple[Sequence[float], Tensor]] = {}
        for value in self._params.values():
            value.requires_grad_()

    @property
    def params(self) -> Params:
        """Parameters and buffers, (num_runs, ...) each."""
        return {**{name: value.detach() for name, value in self._params.items()}, **self._buffers}

    def step(self, x: Tensor, overrides: Overrides = NONE) -> None:
        """Trains every run on x, float32 and scaled: (batch, d_in) for all, or (num_runs, batch, d_in), one each."""
        losses = self._forward(x, overrides)
        # A run's parameters reach only its own part of the sum, so its gradient is that of its own loss.
        total = torch.stack(list(losses.weighted.values())).sum()
        gradients = dict(zip(self._params, torch.autograd.grad(total, list(self._params.values())), strict=True))
        update_each(self._params, gradients, self._moments, self._learning_rates(), self.first.config.optimizer)
        self._carry_over(losses, x.shape[-2])

    def measure(self, x: Tensor, overrides: Overrides = NONE) -> Shares:
        """Measures the gradient of each term at the next step, on x as for `step`. Changes nothing."""
        losses = self._forward(x, overrides, with_statistics=True)
        norms = {
            name: norm_each(dict(zip(self._params, projected_gradient(value.sum(), self._params), strict=True)))
            for name, value in losses.weighted.items()
        }
        return Shares(norms, losses.statistics)

    def _forward(self, x: Tensor, overrides: Overrides, *, with_statistics: bool = False) -> _Losses:
        """Computes the loss of every run."""
        first, step = self.first, self._runs[0].step
        somewhere_dead = any_dead(first, step, self._tokens_since_fired)
        numbers = [sample for recipe in self.recipes if (sample := uniform(recipe, step)) is not None]
        drawn = (torch.stack(numbers),) if numbers else ()
        varying = _Varying(self._tokens_since_fired, self._settings_now(overrides), self._states, self._steered, drawn)

        def of_one_run(params: Params, buffers: Params, x: Tensor, varying: _Varying) -> _Losses:
            moment = Moment(
                step=step,
                num_steps=first.num_steps,
                seed=first.config.seed,  # read only by transforms
                tokens_since_fired=varying.tokens_since_fired,
                dead_after=first.dead_after,
                any_dead=somewhere_dead,
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

        in_dims = (0, 0, None if x.dim() == 2 else 0, 0)
        losses: _Losses = vmap(of_one_run, in_dims=in_dims)(self._params, self._buffers, x, varying)
        return losses

    def _settings_now(self, overrides: Overrides) -> dict[str, dict[str, Tensor]]:
        """Returns every movable setting's value in each run, (num_runs,), by label."""
        runs = [settings_now(recipe, self._runs[0].step, self._steered) for recipe in self.recipes]
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

    @torch.no_grad()
    def _carry_over(self, losses: _Losses, num_tokens: int) -> None:
        """Writes what the next step starts from to the runs' states, which are slices of these tensors."""
        count_silence(self._tokens_since_fired, losses.encoded_sum, num_tokens)
        overwrite(self._states, losses.states)
        overwrite(self._steered, losses.steered)
        overwrite(self._buffers, losses.buffers)
        terms = [torch.stack([value, losses.weighted[name]], dim=1) for name, value in losses.values.items()]
        self._sums.add_(torch.stack(terms, dim=1))
        for state in self._runs:
            state.step += 1
            state.num_summed += 1


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
    if recipe.config.dead.resample_steps:
        return "resamples dead latents"
    return "transforms activations" if recipe.config.transforms else None


def structure(recipe: Recipe) -> Any:
    """Returns the config without seeds, learning rate and values of settings; equal ones can be stacked."""
    raw = recipe.config.identity() | {"seed": 0, "data_seed": 0}
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
    return raw, shapes, recipe.d_in, str(recipe.device)
