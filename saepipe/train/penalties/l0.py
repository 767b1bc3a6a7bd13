"""Sparsity penalty on the number of active latents itself (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from saepipe.train.penalties.base import ANY, SHARE, Penalised, Penalty, State, StepContext, WhenRead
from saepipe.train.sae.base import Architecture
from saepipe.train.sae.jumprelu import BANDWIDTH, JumpReLU, near
from saepipe.train.setting import Setting, SettingsNow, within


class L0(Penalty):
    """L0 = E_b sum_i 1[pre_acts_i > threshold_i]; with a `target`, E_b |x|^2 (L0 / target - 1)^2.

    The step has no slope; it is estimated from the pre-activations near it, with the kernel K(u) = 1[|u| < 1/2]:

        d L0 / d threshold_i = -E_b (1 / bandwidth) K((pre_acts_i - threshold_i) / bandwidth)

    This holds for a jumprelu, of which only the thresholds learn from the penalty, as in the paper. For other
    architectures `threshold` is fixed, and pre_acts gets the opposite gradient: (1 / bandwidth) K(...) / batch.
    """

    name: Literal["l0"] = "l0"
    lowers_l0: ClassVar = True
    estimated: ClassVar = frozenset({"pre_acts"})
    statistics: ClassVar = {"l0": ANY, "near_share": SHARE}  # near_share: share of pre-activations inside the kernel
    target: Annotated[float, Field(gt=0)] | None = None
    bandwidth: Annotated[float, Field(gt=0, description="kernel width; best the jumprelu's own")] = BANDWIDTH
    threshold: Annotated[Setting, within(0, 1e6)] = 0.0

    def refuses(self, sae: Architecture) -> str | None:
        return None if sae.num_active is None else f"{sae.name} always keeps k = {sae.num_active:g} latents"

    def sums_over_latents(self) -> bool:
        return self.target is None

    def reads_pre_acts(self, sae: Architecture) -> Literal["active", "all"]:
        return "active" if isinstance(sae, JumpReLU) and sae.bandwidth == self.bandwidth else "all"

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        threshold = now["threshold"] if ctx.threshold is None else ctx.threshold.detach()
        l0 = ctx.num_above(threshold) / len(ctx.x)
        if ctx.threshold is None:
            num_near = near(ctx.pre_acts, threshold, self.bandwidth)
            above = (num_near * ctx.pre_acts).sum()
        else:
            num_near = ctx.num_near(self.bandwidth)
            above = -num_near.dot(ctx.threshold)
        carrier = above / (self.bandwidth * len(ctx.x))  # its gradient is the estimate
        statistics = WhenRead(lambda: {"l0": l0, "near_share": num_near.sum() / (len(ctx.x) * len(ctx.b_enc))})
        value = l0 + (carrier - carrier.detach())
        if self.target is not None:
            value = ctx.power * (value / self.target - 1).square()
        return Penalised(value, statistics, state)
