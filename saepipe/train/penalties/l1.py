"""Sparsity penalty on the sum of activations (Bricken et al. 2023; weighted by decoder norms: Conerly et al. 2024)."""

from __future__ import annotations

from typing import ClassVar, Literal

from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.sae.crosscoder import norms_by_hook
from saepipe.train.setting import SettingsNow


class L1(Penalty):
    """E_b sum_i acts_i |W_dec_i|; in a gated SAE, the gate's activations take the place of acts."""

    name: Literal["l1"] = "l1"
    lowers_l0: ClassVar = True

    def sums_over_latents(self) -> bool:
        return True

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        # In a crosscoder |W_dec_i| is the sum of norms at each hook, so a latent that writes at few hooks costs less
        # (Lindsey et al. 2024, "Sparse Crosscoders").
        if ctx.widths:
            return Penalised(ctx.acts_sum @ norms_by_hook(ctx.W_dec, ctx.widths).sum(1) / len(ctx.x), {}, state)
        # Leaving out |W_dec_i| is exact: rows have unit norm, and the factor's gradient, along the row, is removed.
        return Penalised(ctx.gate_sum / len(ctx.x), {}, state)
