"""Sparsity by the sum of activations (Bricken et al. 2023; weighted by decoder norms: Conerly et al. 2024)."""

from __future__ import annotations

from typing import Literal

from saepipe.train.penalties.base import Penalised, Penalty, SettingsNow, State, StepContext


class L1(Penalty):
    """E_b sum_i acts_i |W_dec_i|."""

    name: Literal["l1"] = "l1"

    def __call__(self, ctx: StepContext, state: State, settings_now: SettingsNow) -> Penalised:
        # The factor |W_dec_i| is left out exactly: rows have unit norm, and its gradient, along the row, is removed.
        return Penalised(ctx.acts_sum.sum() / len(ctx.x), {}, state)
