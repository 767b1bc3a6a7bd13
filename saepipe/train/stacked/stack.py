"""Small runs of one structure trained as one: every tensor has a leading axis of runs.

`compute_loss` sees one run, as always; torch.func.vmap puts the runs side by side, so a matrix product becomes one
batched product and the cost of Python is paid once. Which runs are stacked: `saepipe.train.stacked.teams`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from saepipe.data.batches.staging_memory import deliver
from saepipe.data.errors import ConfigError
from saepipe.train.sae.base import Params
from saepipe.train.setting import controllers, settings_at
from saepipe.train.stacked.optim_stacked import norm_each, update_each
from saepipe.train.stacked.slices import overwrite, shared
from saepipe.train.step.dead import any_dead, count_silence
from saepipe.train.step.loss import RECONSTRUCTION, Moment, compute_loss
from saepipe.train.step.measure import projected_gradient
from saepipe.train.step.optim import begin_moments
from saepipe.train.step.schedule import learning_rate
from saepipe.train.step.state import Recipe, TrainState
from saepipe.train.step.step import steer, uniform

MOVING = ("lr", "warmup", "decay")
"""Settings of the optimiser in which stacked runs may differ."""

Overrides = Mapping[str, Tensor]
"""Settings of the next step by `<label>.<setting>`, (num_runs,) each, in place of what the configs say."""

NONE: Overrides = MappingProxyType({})


@dataclass(frozen=True)
class Shares:
    """How strongly each term of the loss pulls, run by run, W_dec's parallel part removed."""

    gradient_norms: dict[str, Tensor]  # (num_runs,) of each weighted term, over all parameters
    statistics: dict[str, Tensor]  # (num_runs,) each

    def share(self, label: str) -> Tensor:
        """(num_runs,): the norm of a term's gradient over that of the reconstruction's."""
        return self.gradient_norms[label] / self.gradient_norms[RECONSTRUCTION]


class Stack:
    """A faster way to make one step of each of several runs: they end where each would end alone, up to rounding.

    The tensors of the runs' states become slices of shared ones, (num_runs, ...), and stay what they are: a state is
    measured, saved and judged as if it were alone. While it is in a stack, the stack alone makes its steps.
    """

    def __init__(self, runs: Sequence[tuple[Recipe, TrainState]]) -> None:
        """Takes up runs at one step, wherever it is.

        Raises:
            ConfigError: if they cannot be stacked.
        """
        self.recipes, self._runs = [recipe for recipe, _ in runs], [state for _, state in runs]
        _refuse_unlike(self.recipes, self._runs)
        self.first = self.recipes[0]
        for state in self._runs:
            begin_moments(state.adam)
            # A penalty may begin with one tensor under several names; each must have a place of its own.
            state.states = {label: {name: t.clone() for name, t in own.items()} for label, own in state.states.items()}
        adam = [{name: state.adam.state[value] for name, value in state.params.items()} for state in self._runs]
        self._moments: dict[str, dict[str, Tensor]] = shared(adam)
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
        """(num_runs, ...) each, buffers too."""
        return {**{name: value.detach() for name, value in self._params.items()}, **self._buffers}

    def step(self, x: Tensor, overrides: Overrides = NONE) -> None:
        """Trains every run on x, float32 and scaled: (batch, d_in) for all, or (num_runs, batch, d_in), one each."""
        found = self._forward(x, overrides)
        # A run's parameters reach its own part of the sum alone, so its gradient is that of its own loss.
        total = torch.stack(list(found["weighted"].values())).sum()
        gradients = dict(zip(self._params, torch.autograd.grad(total, list(self._params.values())), strict=True))
        update_each(self._params, gradients, self._moments, self._learning_rates(), self.first.config.optimizer)
        self._remember(found, x.shape[-2])

    def measure(self, x: Tensor, overrides: Overrides = NONE) -> Shares:
        """The gradients of each term at the step that comes next; x as for `step`. Changes nothing."""
        found = self._forward(x, overrides)
        norms = {
            name: norm_each(dict(zip(self._params, projected_gradient(value.sum(), self._params), strict=True)))
            for name, value in found["weighted"].items()
        }
        return Shares(norms, found["statistics"])

    def _forward(self, x: Tensor, overrides: Overrides) -> dict[str, Any]:
        """Every run's loss in its parts: nested dicts of tensors (num_runs, ...)."""
        first, step = self.first, self._runs[0].step
        dead = self._tokens_since_fired >= first.dead_after
        somewhere_dead = any_dead(first, self._runs[0], dead)
        moving = {"dead": dead, "now": self._now(overrides), "states": self._states, "steered": self._steered}
        drawn = [one for recipe in self.recipes if (one := uniform(recipe, step)) is not None]
        if drawn:
            moving["uniform"] = torch.stack(drawn)

        def of_one_run(params: Params, buffers: Params, x: Tensor, moving: dict[str, Any]) -> dict[str, Any]:
            moment = Moment(
                step=step,
                num_steps=first.num_steps,
                seed=first.config.seed,  # read by transforms only
                dead=moving["dead"],
                any_dead=somewhere_dead,
                uniform=moving.get("uniform"),
                now=moving["now"],
                states=moving["states"],
            )
            loss = compute_loss(first.config, {**params, **buffers}, x, moment, first.dtype)
            return {
                "values": {name: term.value.detach() for name, term in loss.terms.items()},
                "weighted": {name: term.weighted for name, term in loss.terms.items()},
                "statistics": loss.statistics,
                "fired": loss.fired,
                "states": loss.states,
                "buffers": dict(loss.buffers),
                "steered": steer(first, step, loss, moving["steered"]),
            }

        in_dims = (0, 0, None if x.dim() == 2 else 0, 0)
        found: dict[str, Any] = vmap(of_one_run, in_dims=in_dims)(self._params, self._buffers, x, moving)
        return found

    def _now(self, overrides: Overrides) -> dict[str, dict[str, Tensor]]:
        """By label, every setting that may move as it stands in each run: (num_runs,)."""
        step, num_steps = self._runs[0].step, self.first.num_steps
        now: dict[str, dict[str, Tensor]] = {}
        for pairs in zip(*(recipe.config.components() for recipe in self.recipes), strict=True):
            label = pairs[0][0]
            steered = {name: self._steered[f"{label}.{name}"] for name in controllers(pairs[0][1])}
            each = [settings_at(component, step, num_steps, steered) for _, component in pairs]
            now[label] = {
                name: value if isinstance(value, Tensor) else self._on_device(label, name, [one[name] for one in each])
                for name, value in each[0].items()
            }
        for key, values in overrides.items():
            label, _, name = key.partition(".")
            now[label][name] = values
        return now

    def _on_device(self, label: str, name: str, values: Sequence[Any]) -> Tensor:
        """A setting's numbers as (num_runs,); sent anew only when one has moved, and without waiting for the device."""
        sent, tensor = self._sent.get((label, name), (None, None))
        if tensor is None or sent != values:
            tensor = deliver(torch.tensor(values, dtype=torch.float32), self.first.device)
            self._sent[label, name] = values, tensor
        return tensor

    def _learning_rates(self) -> list[float]:
        step, num_steps = self._runs[0].step, self.first.num_steps
        return [learning_rate(recipe.config.optimizer, recipe.config.dead, step, num_steps) for recipe in self.recipes]

    @torch.no_grad()
    def _remember(self, found: Mapping[str, Any], num_tokens: int) -> None:
        """What the step leaves for the next, in the runs' states: they are slices of these tensors."""
        count_silence(self._tokens_since_fired, found["fired"], num_tokens)
        overwrite(self._states, found["states"])
        overwrite(self._steered, found["steered"])
        overwrite(self._buffers, found["buffers"])
        terms = [torch.stack([found["values"][name], found["weighted"][name]], dim=1) for name in found["values"]]
        self._sums.add_(torch.stack(terms, dim=1))
        for state in self._runs:
            state.step += 1
            state.num_summed += 1


def _refuse_unlike(recipes: Sequence[Recipe], states: Sequence[TrainState]) -> None:
    """Raises ConfigError unless the runs have one structure and stand at one step, and a stack can make their steps."""
    if why := next(filter(None, map(why_not, recipes)), None):
        raise ConfigError(f"runs cannot be stacked: one {why}")
    kinds = {repr(structure(recipe)) for recipe in recipes}
    if len(kinds) > 1:
        raise ConfigError(f"runs of {len(kinds)} structures cannot be stacked", hint="stack those of one structure")
    assert len({state.step for state in states}) == 1, "runs are stacked at one step"


def why_not(recipe: Recipe) -> str | None:
    """What it has that depends on its own values or seed in a way that a stack does not know."""
    if recipe.config.dead.resample_steps:
        return "resamples dead latents"
    return "transforms activations" if recipe.config.transforms else None


def structure(recipe: Recipe) -> Any:
    """The config less seeds, the learning rate, and the numbers of settings; runs of equal ones can be stacked."""
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
