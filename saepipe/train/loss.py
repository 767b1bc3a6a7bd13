"""One forward pass and the terms of its loss: the reconstruction, then each penalty by name."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.train.config import TrainConfig, labels
from saepipe.train.penalties.base import State, StepContext
from saepipe.train.sae.base import Params

RECONSTRUCTION = "reconstruction"


@dataclass(frozen=True)
class Term:
    """One summand of the loss."""

    value: Tensor  # () float32, before the weight
    weight: float  # as it stands at this step

    @property
    def weighted(self) -> Tensor:
        return self.value * self.weight


@dataclass(frozen=True)
class Loss:
    """A step's loss, in parts."""

    ctx: StepContext
    terms: dict[str, Term]
    statistics: dict[str, Tensor]  # () each, as `<penalty>/<statistic>`
    penalty_states: dict[str, State]  # after this step

    @property
    def total(self) -> Tensor:
        return torch.stack([term.weighted for term in self.terms.values()]).sum()


def reconstruction(x: Tensor, x_hat: Tensor, kind: str) -> Tensor:
    """E_b of |x - x_hat|^2 (`squared`) or |x - x_hat| (`norm`); (batch, d_in) twice -> ()."""
    error = x - x_hat
    return error.square().sum() / len(x) if kind == "squared" else torch.linalg.vector_norm(error, dim=1).mean()


def forward(
    config: TrainConfig, params: Params, x: Tensor, dead: Tensor, *, any_dead: bool, dtype: torch.dtype
) -> StepContext:
    """x (batch, d_in) float32, scaled -> what the terms of the loss see."""
    pre_acts = config.sae.pre_acts(params, x, dtype)
    acts = config.sae.activate(pre_acts)
    acts_sum = acts.sum(0, dtype=x.dtype)
    x_hat = config.sae.decode(params, acts)
    weights = {name: params[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    return StepContext(
        x=x, pre_acts=pre_acts, acts=acts, acts_sum=acts_sum, x_hat=x_hat, **weights, dead=dead, any_dead=any_dead
    )


def compute_loss(
    config: TrainConfig, ctx: StepContext, penalty_states: dict[str, State], step: int, num_steps: int
) -> Loss:
    """The loss of one step, counted from 0, and what the penalties remember of it."""
    terms = {RECONSTRUCTION: Term(reconstruction(ctx.x, ctx.x_hat, config.reconstruction), 1.0)}
    statistics: dict[str, Tensor] = {}
    new_states: dict[str, State] = {}
    for label, penalty in zip(labels(config.penalties), config.penalties, strict=True):
        settings = penalty.settings_at(step, num_steps)
        answer = penalty(ctx, penalty_states[label], settings)
        terms[label] = Term(answer.value, settings["weight"])
        statistics |= {f"{label}/{name}": value for name, value in answer.statistics.items()}
        new_states[label] = {name: tensor.detach() for name, tensor in answer.state.items()}
    return Loss(ctx, terms, statistics, new_states)
