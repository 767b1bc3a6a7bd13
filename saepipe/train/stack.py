"""Small runs of one structure trained as one: every tensor has a leading axis of runs.

`compute_loss` sees one run, as always; torch.func.vmap puts the runs side by side, so a matrix product becomes one
batched product and the cost of Python is paid once. It is for shapes too small to fill a core alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, grad_and_value, vmap

from saepipe.data.errors import ConfigError
from saepipe.train.dead import count_silence
from saepipe.train.loss import RECONSTRUCTION, Loss, Moment, compute_loss
from saepipe.train.optim import make_adam, remove_parallel, update
from saepipe.train.sae.base import Params
from saepipe.train.schedule import learning_rate
from saepipe.train.setting import SettingsNow, controllers
from saepipe.train.state import Recipe, TrainState, fresh_state, initial_params
from saepipe.train.step import settings_now, steer, uniform

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
    """Runs whose configs differ in nothing but seeds and the numbers of settings that are not steered."""

    def __init__(self, recipes: Sequence[Recipe], b_dec: Tensor | None = None) -> None:
        """Begins at step 0.

        Args:
            recipes: one a run.
            b_dec: (num_runs, d_in) where it begins; zeros if not given.

        Raises:
            ConfigError: if the runs cannot be stacked.
        """
        _refuse_unlike(recipes)
        self.recipes = list(recipes)
        self.first = recipes[0]
        alone = [fresh_state(recipe, initial_params(recipe)) for recipe in recipes]
        leaves = {name: value.detach() for name, value in stacked([state.params for state in alone]).items()}
        if b_dec is not None:
            leaves["b_dec"] = b_dec.clone()
        self.state = TrainState(
            step=0,
            params={name: value.requires_grad_() for name, value in leaves.items()},
            buffers=stacked([state.buffers for state in alone]),
            adam=make_adam(leaves, self.first.config.optimizer),
            tokens_since_fired=stacked([state.tokens_since_fired for state in alone]),
            states=stacked([state.states for state in alone]),
            steered=stacked([state.steered for state in alone]),
            sums=stacked([state.sums for state in alone]),
            num_summed=0,
        )

    @property
    def params(self) -> Params:
        """(num_runs, ...) each, buffers too."""
        return {name: value.detach() for name, value in self.state.all_params.items()}

    def step(self, x: Tensor, overrides: Overrides = NONE) -> None:
        """Trains every run on its own batch: x (num_runs, batch, d_in) float32, scaled."""
        state, config = self.state, self.first.config
        moving, fixed = self._moment(overrides)

        def run(params: Params, buffers: Params, x: Tensor, moving: Any) -> tuple[Tensor, tuple[Any, ...]]:
            loss = self._loss(params, buffers, x, moving, fixed)
            steered = steer(self.first, state.step, loss, moving["steered"])
            return loss.total, (loss.states, loss.fired, dict(loss.buffers), steered)

        gradients, (_, (states, fired, buffers, steered)) = vmap(grad_and_value(run, has_aux=True))(
            _detached(state.params), state.buffers, x, moving
        )
        lr = learning_rate(config.optimizer, config.dead, state.step, self.first.num_steps)
        if config.optimizer.clip is not None:
            remove_parallel(gradients, state.params["W_dec"])
            clip_each(gradients, config.optimizer.clip)
        update(state.adam, state.params, gradients, lr=lr, clip=None)
        count_silence(state.tokens_since_fired, fired, x.shape[1])
        state.states, state.steered = states, steered
        state.buffers |= buffers
        state.step += 1

    def measure(self, x: Tensor, overrides: Overrides = NONE) -> Shares:
        """The gradients of each term at the step that comes next; x as for `step`. Changes nothing."""
        moving, fixed = self._moment(overrides)
        norms = {}
        statistics: dict[str, Tensor] = {}
        for name in (RECONSTRUCTION, *moving["now"]):

            def run(params: Params, buffers: Params, x: Tensor, moving: Any, name: str = name) -> tuple[Tensor, Any]:
                loss = self._loss(params, buffers, x, moving, fixed)
                return loss.terms[name].weighted, loss.statistics

            gradients, statistics = vmap(grad(run, has_aux=True))(
                _detached(self.state.params), self.state.buffers, x, moving
            )
            remove_parallel(gradients, self.state.params["W_dec"])
            norms[name] = norm_each(gradients)
        return Shares(norms, statistics)

    def _moment(self, overrides: Overrides) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a step depends on: what differs between the runs, with a leading axis, and what does not."""
        state = self.state
        dead = state.tokens_since_fired >= self.first.dead_after
        now = [
            settings_now(recipe, state.step, {key: value[run] for key, value in state.steered.items()})
            for run, recipe in enumerate(self.recipes)
        ]
        moving = {
            "dead": dead,
            "now": stacked([_as_tensors(settings) for settings in now]),
            "states": state.states,
            "steered": state.steered,
        }
        for key, values in overrides.items():
            label, _, setting = key.partition(".")
            moving["now"][label][setting] = values
        drawn = [uniform(recipe, state.step) for recipe in self.recipes]
        if drawn[0] is not None:
            moving["uniform"] = stacked(drawn)
        return moving, {"any_dead": bool(dead.any())}

    def _loss(self, params: Params, buffers: Params, x: Tensor, moving: Any, fixed: Any) -> Loss:
        """Of one run."""
        moment = Moment(
            step=self.state.step,
            num_steps=self.first.num_steps,
            seed=self.first.config.seed,
            dead=moving["dead"],
            any_dead=fixed["any_dead"],
            uniform=moving.get("uniform"),
            now=moving["now"],
            states=moving["states"],
        )
        return compute_loss(self.first.config, {**params, **buffers}, x, moment, self.first.dtype)


def stacked(items: Sequence[Any]) -> Any:
    """Nested dicts of tensors, of one structure, as one with a leading axis; leaves keep their place."""
    if isinstance(items[0], Mapping):
        return {key: stacked([item[key] for item in items]) for key in items[0]}
    return torch.stack(list(items))


def norm_each(gradients: Mapping[str, Tensor]) -> Tensor:
    """The norm over all parameters (num_runs, ...) of each run: (num_runs,)."""
    return torch.stack([value.flatten(1).square().sum(1) for value in gradients.values()]).sum(0).sqrt()


def clip_each(gradients: Mapping[str, Tensor], most: float) -> None:
    """Scales each run's whole gradient, in place, to a norm of at most `most`."""
    factor = (most / (norm_each(gradients) + 1e-6)).clamp(max=1.0)
    for value in gradients.values():
        value.mul_(factor.view(-1, *(1,) * (value.dim() - 1)))


def _as_tensors(settings: Mapping[str, SettingsNow]) -> dict[str, dict[str, Tensor]]:
    return {
        label: {name: torch.as_tensor(value, dtype=torch.float32) for name, value in now.items()}
        for label, now in settings.items()
    }


def _detached(params: Params) -> Params:
    return {name: value.detach() for name, value in params.items()}


def _refuse_unlike(recipes: Sequence[Recipe]) -> None:
    """Raises ConfigError unless the runs have one structure, and no step that looks at the values of one of them."""
    if recipes[0].config.dead.resample_steps or recipes[0].config.transforms:
        raise ConfigError("runs that resample dead latents or transform activations are not stacked")
    kinds = {repr(_structure(recipe)) for recipe in recipes}
    if len(kinds) > 1:
        raise ConfigError(f"runs of {len(kinds)} structures cannot be stacked", hint="stack those of one structure")


def _structure(recipe: Recipe) -> Any:
    """The config less seeds and the numbers of settings; two runs of equal ones can be stacked."""
    raw = recipe.config.identity() | {"seed": 0, "data_seed": 0}
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
