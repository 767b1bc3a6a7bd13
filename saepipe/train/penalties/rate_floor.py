"""Penalty on latents that are active too rarely: a corrected form of study B's "importance variance".

Minus the variance of the mean activations is unbounded below, and a few giant latents minimise it best. This term
holds up the densities of the latents instead, and has a minimum that it reaches.
"""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from saepipe.train.penalties.base import SHARE, Penalised, Penalty, State, StepContext, WhenRead
from saepipe.train.sae.base import Architecture, is_active
from saepipe.train.setting import Setting, SettingsNow, within

SOFT = 0.1
"""Added to each density, as a share of p_min, so that the logarithm is finite for a latent that is never active."""


class RateFloor(Penalty):
    """With p_i the density of latent i, a running mean over steps, plus 0.1 p_min:

        log_floor   1/d_sae sum_i max(log(1.1 p_min) - log p_i, 0)
        entropy     log d_sae + sum_i q_i log q_i, where q = p / sum p: 0 if all latents are equally dense

    A density has no slope. The slope is estimated by that of sigmoid((pre_acts_i - threshold_i) / bandwidth), which is
    not 0 far below the threshold, where the dead latents are; the threshold is 0 if the architecture has none.
    """

    name: Literal["rate_floor"] = "rate_floor"
    dense_arrays: ClassVar = 1
    estimated: ClassVar = frozenset({"pre_acts"})
    statistics: ClassVar = {"below": SHARE, "entropy": SHARE}  # latents below p_min; entropy of q over log d_sae
    may_rest: ClassVar[bool] = True  # if every latent is active often enough
    form: Literal["log_floor", "entropy"] = "log_floor"
    p_min: Annotated[Setting, within(1e-9, 1)] = 1e-4
    bandwidth: Annotated[float, Field(gt=0)] = 1.0
    decay: Annotated[float, Field(ge=0, lt=1, description="of the running mean, per step")] = 0.99

    def init_state(self, d_in: int, d_sae: int) -> State:
        return {"rate": torch.zeros(d_sae), "seen": torch.zeros(())}

    def reads_pre_acts(self, sae: Architecture) -> Literal["all"]:
        return "all"

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        density = is_active(ctx.gate_acts).mean(0, dtype=ctx.x.dtype)
        state = {
            name: state[name].lerp(new.to(state[name].dtype), 1 - self.decay)
            for name, new in (("rate", density), ("seen", torch.ones_like(state["seen"])))
        }
        pre_acts = ctx.pre_acts.to(ctx.x.dtype)
        margin = pre_acts if ctx.threshold is None else pre_acts - ctx.threshold
        carrier = (margin / self.bandwidth).sigmoid().mean(0)  # its gradient is the estimate
        p_min = now["p_min"]
        rate = state["rate"] / state["seen"] + (carrier - carrier.detach()) + SOFT * p_min
        statistics = WhenRead(
            lambda: {
                "below": (shortfall(rate, p_min) > 0).sum() / len(rate),
                "entropy": 1 - unevenness(rate) / math.log(len(rate)),
            }
        )
        value = shortfall(rate, p_min).mean() if self.form == "log_floor" else unevenness(rate)
        return Penalised(value, statistics, state)


def shortfall(rate: Tensor, p_min: float | Tensor) -> Tensor:
    """Returns max(log(1.1 p_min) - log rate, 0), (d_sae,)."""
    return ((1 + SOFT) * p_min / rate).log().relu()


def unevenness(rate: Tensor) -> Tensor:
    """Returns log d_sae + sum_i q_i log q_i for q = rate / sum rate, ()."""
    share = rate / rate.sum()
    return (math.log(len(rate)) + (share * share.log()).sum()).relu()
