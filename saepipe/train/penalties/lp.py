"""Sparsity penalty on a power p <= 1 of the activations (p annealed: Karvonen et al. 2024, arXiv 2408.00113)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.setting import Setting, SettingsNow, within


class Lp(Penalty):
    """E_b sum_i acts_i (acts_i + eps)^(p - 1), with 0 < p <= 1: L1 at p = 1, and closer to L0 the smaller p is.

    acts^p has an infinite slope at 0. `eps` bounds the slope there by eps^(p - 1), and changes little well above eps.
    Slope: (acts_i + eps)^(p - 2) (p acts_i + eps), so a small activation is pushed down harder than a large one.
    """

    name: Literal["lp"] = "lp"
    lowers_l0: ClassVar = True
    dense_arrays: ClassVar = 4
    p: Annotated[Setting, within(0.01, 1)] = 0.5
    eps: Annotated[float, Field(gt=0)] = 0.01

    def sums_over_latents(self) -> bool:
        return True

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        total = ctx.over_gates(lambda gates: gates * (gates + self.eps) ** (now["p"] - 1))
        return Penalised(total / len(ctx.x), {}, state)
