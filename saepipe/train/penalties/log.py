"""Logarithmic sparsity penalty (Candes, Wakin & Boyd 2008, Enhancing Sparsity by Reweighted L1 Minimization)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.setting import Setting, SettingsNow, within


class Log(Penalty):
    """E_b sum_i log(1 + acts_i / eps): close to L1 / eps for acts well below eps, and almost flat well above.

    Slope: 1 / (acts_i + eps), so an activation twice as large is pushed down half as hard.
    """

    name: Literal["log"] = "log"
    lowers_l0: ClassVar = True
    dense_arrays: ClassVar = 1
    eps: Annotated[Setting, within(1e-6, 1e6)] = 0.1

    def sums_over_latents(self) -> bool:
        return True

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        return Penalised(ctx.over_gates(lambda gates: (gates / now["eps"]).log1p()) / len(ctx.x), {}, state)
