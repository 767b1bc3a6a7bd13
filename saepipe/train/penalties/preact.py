"""Penalty that keeps latents from dying, on the pre-activations that miss the threshold (Conerly et al. 2025)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from saepipe.train.penalties.base import SHARE, Penalised, Penalty, State, StepContext, WhenRead
from saepipe.train.sae.base import Architecture
from saepipe.train.setting import Setting, SettingsNow, within


class PreAct(Penalty):
    """E_b sum_i max(threshold_i - pre_acts_i, 0) |W_dec_i|; the threshold is 0 if the architecture has none.

    An inactive latent gets the same slope at a token however far it is below the threshold, so it is never out of
    reach. Pre-activations rise, and a jumprelu's thresholds fall. The term sums over nearly all latents at every
    token, so it needs a small weight. From Anthropic's Circuits Updates of January 2025, which uses 3e-6.
    """

    name: Literal["preact"] = "preact"
    dense_arrays: ClassVar = 2
    statistics: ClassVar = {"off_share": SHARE}  # share of the pre-activations that the term acts on
    weight: Annotated[Setting, within(0, 1e6)] = 3e-6

    def sums_over_latents(self) -> bool:
        return True

    def reads_pre_acts(self, sae: Architecture) -> Literal["all"]:
        return "all"

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        pre_acts = ctx.pre_acts.to(ctx.x.dtype)
        missing = (-pre_acts if ctx.threshold is None else ctx.threshold - pre_acts).relu()
        # |W_dec_i| = 1, as in `l1`.
        statistics = WhenRead(lambda: {"off_share": (missing > 0).sum() / missing.numel()})
        return Penalised(missing.sum() / len(missing), statistics, state)
