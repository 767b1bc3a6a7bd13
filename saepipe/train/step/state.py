"""The fixed recipe of a run, and the state that changes from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from saepipe.train.config import TrainConfig
from saepipe.train.freeze import frozen_names
from saepipe.train.parallel.mesh import Mesh
from saepipe.train.parallel.split_params import own_params
from saepipe.train.penalties.base import State
from saepipe.train.sae import crosscoder
from saepipe.train.sae.base import Params
from saepipe.train.sae.transcoder import BUFFERS, in_raw_units, split_rows, transcoder_params
from saepipe.train.schedule import controllers
from saepipe.train.seeds import generator
from saepipe.train.step.density import starts_sparse
from saepipe.train.step.optim import Moments, initial_moments
from saepipe.train.step.sampling import GradientSample


@dataclass(frozen=True)
class Target:
    """What a transcoder reconstructs."""

    d_out: int
    scale: float  # y is trained on as scale * y


@dataclass(frozen=True)
class Recipe:
    """Everything that a run's steps depend on besides the batches."""

    config: TrainConfig  # resolved: one run, every value set
    d_in: int
    scale: float  # x is trained on as scale * x
    device: torch.device
    target: Target | None = None  # None: x itself is reconstructed
    widths: tuple[int, ...] = ()  # of a crosscoder's hooks
    scales: tuple[float, ...] | None = None  # of a crosscoder's hooks, instead of `scale`
    mesh: Mesh | None = None  # the ranks that the run is split over; None: this process has all of it

    @property
    def writes(self) -> bool:
        """True in the process that writes the run's folder: of several ranks, the first."""
        return self.mesh is None or self.mesh.is_first

    @property
    def num_steps(self) -> int:
        assert self.config.steps is not None, "the config is not resolved"
        return self.config.steps

    @property
    def dead_after(self) -> int:
        assert self.config.dead.after_tokens is not None, "the config is not resolved"
        return self.config.dead.after_tokens

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.config.compute_dtype == "bfloat16" else torch.float32

    @property
    def d_out(self) -> int:
        return self.target.d_out if self.target else self.d_in

    @cached_property
    def channel_scale(self) -> float | Tensor:
        """Factor of x over the stored rows: a number, or (d_in,) in a crosscoder."""
        if self.scales is None:
            return self.scale
        parts = zip(self.widths, self.scales, strict=True)
        return torch.cat([torch.full((width,), scale, device=self.device) for width, scale in parts])

    @property
    def tail_start(self) -> int:
        """First step, counted from 0, of the KL tail; the number of steps without one."""
        return self.num_steps - self.config.kl_tail.num_steps(self.num_steps)

    def at(self, step: int) -> Recipe:
        """Returns the recipe of one step, counted from 0, whose architecture has numbers where a schedule moves it."""
        sae = self.config.sae.at(step, self.num_steps)
        return self if sae is self.config.sae else replace(self, config=self.config.model_copy(update={"sae": sae}))

    def moves_at(self, step: int) -> bool:
        """Returns whether a schedule of the architecture has yet to reach its end at a step."""
        return self.config.sae.at(step, self.num_steps) != self.config.sae.ended()

    def scaled(self, rows: Tensor) -> Tensor:
        """Moves raw rows of any dtype to the run's device and scales them to float32.

        They are x (batch, d_in), or x beside the target, (batch, d_in + d_out).
        """
        if self.scales is None and self.target is None:
            return rows.to(self.device, torch.float32) * self.scale
        scaled = rows.to(self.device, torch.float32, copy=True)
        if self.scales is not None:
            parts, scales = torch.split(scaled, list(self.widths), dim=1), self.scales
        else:
            assert self.target is not None
            parts, scales = split_rows(scaled, self.d_in), (self.scale, self.target.scale)
        for part, scale in zip(parts, scales, strict=True):
            part.mul_(scale)
        return scaled

    def in_raw_units(self, params: Params) -> Params:
        """Returns parameters for raw activations, of the SAE to save, that are equivalent to those of the run."""
        if self.scales is not None:
            return crosscoder.in_raw_units(self.config.sae, params, self.widths, self.scales)
        if self.target is None:
            return self.config.sae.unscaled(params, self.scale)
        return in_raw_units(self.config.sae, params, self.scale, self.target.scale)

    def in_run_units(self, params: Params) -> Params:
        """Inverts `in_raw_units`: returns the run's parameters that are equivalent to those for raw activations."""
        if self.scales is not None:
            inverse = [1 / scale for scale in self.scales]
            return crosscoder.in_raw_units(self.config.sae, params, self.widths, inverse)
        if self.target is None:
            return self.config.sae.unscaled(params, 1 / self.scale)
        return in_raw_units(self.config.sae, params, 1 / self.scale, 1 / self.target.scale)


@dataclass
class TrainState:
    """Everything that changes from step to step; a checkpoint holds exactly this.

    In a run over ranks, parameters, their moments and the buffers are those of this rank's latents (the part of
    `parallel.split_params`). All else is of the whole run, and the same on every rank.
    """

    step: int  # steps done
    params: Params  # float32 leaves that require a gradient
    buffers: Params  # parameters that no gradient trains: those of the architecture, and what is frozen
    moments: Moments  # of Adam
    tokens_since_fired: Tensor  # (d_sae,) int64
    states: dict[str, State]  # of penalties and transforms, by label
    steered: dict[str, Tensor]  # () logarithms of controlled settings, by `<label>.<setting>`
    sums: Tensor  # (num_terms, 2) float64: each term's value and weighted value, summed since the last log line
    num_summed: int
    sampled: GradientSample | None  # measured since the last log line, for the next one
    sparse: bool  # whether the next step is sparse

    @property
    def all_params(self) -> Params:
        """Parameters and buffers."""
        return {**self.params, **self.buffers}


def initial_params(recipe: Recipe) -> Params:
    """Returns the parameters before b_dec (and b_in) are set, on the CPU; a pure function of the config."""
    config = recipe.config
    rng = generator(config.seed, "init")
    params = config.sae.init(recipe.d_out, config.init.encoder_scale, rng)
    if recipe.target is None:
        return params
    return transcoder_params(params, recipe.d_in, config.init.encoder_scale, rng, skip=bool(config.skip))


def fresh_state(recipe: Recipe, params: Params) -> TrainState:
    """Returns the state at step 0 from given parameters, of all latents (on any device): this rank's part of it."""
    config, device = recipe.config, recipe.device
    if recipe.mesh is not None:
        params = own_params(params, recipe.mesh)
    copies = {name: value.to(device, copy=True) for name, value in params.items()}
    untrained = config.sae.buffers | BUFFERS | frozen_names(config.freeze)
    buffers = {name: copies.pop(name) for name in sorted(untrained & copies.keys())}
    leaves = {name: value.requires_grad_() for name, value in copies.items()}
    moments = initial_moments(leaves)
    if config.freeze == "soft_decoder":
        moments["W_dec"]["start"] = leaves["W_dec"].detach().clone()
    d_sae = config.sae.d_sae
    states = {
        label: {name: tensor.to(device) for name, tensor in component.init_state(recipe.d_in, d_sae).items()}
        for label, component in config.components()
    }
    steered = {
        f"{label}.{name}": torch.tensor(controller.start, device=device).log()
        for label, component in config.components()
        for name, controller in controllers(component).items()
    }
    return TrainState(
        step=0,
        params=leaves,
        buffers=buffers,
        moments=moments,
        tokens_since_fired=torch.zeros(d_sae, dtype=torch.int64, device=device),
        states=states,
        steered=steered,
        sums=torch.zeros(len(config.term_names), 2, dtype=torch.float64, device=device),
        num_summed=0,
        sampled=None,
        sparse=starts_sparse(recipe.at(0).config, recipe.d_in, device),
    )


def overwrite(old: Any, new: Any) -> None:
    """Copies tensors, or those of nested dicts, into the tensors of the same names."""
    if isinstance(new, Mapping):
        for key, value in new.items():
            overwrite(old[key], value)
    else:
        old.copy_(new)
