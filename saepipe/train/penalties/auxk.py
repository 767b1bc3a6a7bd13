"""AuxK: dead latents learn to explain the error that the live ones leave (Gao et al. 2024, arXiv 2406.04093, A.2)."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.train.penalties.base import ANY, Penalised, Penalty, State, StepContext
from saepipe.train.sae.base import Architecture
from saepipe.train.setting import Setting, SettingsNow, within


class AuxK(Penalty):
    """E_b |x|^2 * E_b (|e - e_hat|^2 / |e|^2), where e = x - x_hat and e_hat comes from k_aux dead latents.

    The paper normalises both the reconstruction and this term by what they explain. Our reconstruction is not
    normalised, so E_b |x|^2 gives this term the same units, and weight 1/32 means the same as in the paper. No gradient
    reaches e, so only dead latents learn from it. The value is 0 while no latent is dead.
    """

    name: Literal["auxk"] = "auxk"
    dense_arrays: ClassVar = 1
    statistics: ClassVar = {"num_dead": ANY, "unexplained": ANY}
    may_rest: ClassVar = True
    weight: Annotated[Setting, within(0, math.inf)] = 1 / 32
    k_aux: Annotated[Count, Field(ge=1)] | None = Field(None, description="dead latents per token; null: d_in / 2")

    def reads_pre_acts(self, sae: Architecture) -> Literal["dead"]:
        return "dead"

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        if not ctx.any_dead:
            zero = ctx.x.new_zeros(())
            return Penalised(zero, {"num_dead": zero, "unexplained": zero}, state)
        d_sae, d_in = len(ctx.dead), ctx.target.shape[1]
        k_aux = min(self.k_aux or max(1, d_in // 2), d_sae)
        error = (ctx.target - ctx.x_hat).detach()
        error_hat = ctx.decode_largest(k_aux, ctx.dead)
        energy = error.square().sum(1).clamp_min(1e-12)
        unexplained = ((error - error_hat).square().sum(1) / energy).mean()
        num_dead = ctx.dead.sum()
        value = ctx.power * unexplained * (num_dead > 0)
        return Penalised(value, {"num_dead": num_dead, "unexplained": unexplained.detach()}, state)
