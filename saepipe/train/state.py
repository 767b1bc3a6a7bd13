"""What stays the same while a run trains, and what changes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.train.config import TrainConfig, labels
from saepipe.train.optim import make_adam
from saepipe.train.penalties.base import State
from saepipe.train.sae.base import Params
from saepipe.train.seeds import generator


@dataclass(frozen=True)
class Recipe:
    """All that a run's steps depend on besides the batches."""

    config: TrainConfig  # resolved: one run, nothing left open
    d_in: int
    scale: float  # x is trained on as scale * x
    device: torch.device

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

    def scaled(self, rows: Tensor) -> Tensor:
        """Raw rows (batch, d_in) of any dtype -> x (batch, d_in) float32 on the run's device."""
        return rows.to(self.device, torch.float32) * self.scale


@dataclass
class TrainState:
    """All that changes from step to step; what a checkpoint holds."""

    step: int  # steps done
    params: Params  # float32 leaves that require a gradient
    adam: torch.optim.Adam
    tokens_since_fired: Tensor  # (d_sae,) int64
    penalty_states: dict[str, State]
    sums: Tensor  # (num_terms, 2) float64: each term's value and weighted value, summed since the last log line
    num_summed: int


def initial_params(recipe: Recipe) -> Params:
    """Before b_dec is set; a pure function of the config, on the CPU."""
    config = recipe.config
    return config.sae.init(recipe.d_in, config.init.encoder_scale, generator(config.seed, "init"))


def fresh_state(recipe: Recipe, params: Params) -> TrainState:
    """Step 0 from given parameters (on any device)."""
    config, device = recipe.config, recipe.device
    leaves = {name: value.to(device, copy=True).requires_grad_() for name, value in params.items()}
    d_sae = config.sae.d_sae
    states = {
        label: {name: tensor.to(device) for name, tensor in penalty.init_state(recipe.d_in, d_sae).items()}
        for label, penalty in zip(labels(config.penalties), config.penalties, strict=True)
    }
    return TrainState(
        step=0,
        params=leaves,
        adam=make_adam(leaves, config.optimizer),
        tokens_since_fired=torch.zeros(d_sae, dtype=torch.int64, device=device),
        penalty_states=states,
        sums=torch.zeros(1 + len(config.penalties), 2, dtype=torch.float64, device=device),
        num_summed=0,
    )
