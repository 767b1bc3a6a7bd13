"""Absorption: a parent goes silent where its child is active, and the child's decoder row takes over its direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from saepipe.train.pairs import selection
from saepipe.train.pairs.hinge import hinge
from saepipe.train.pairs.ratios import RATIOS, RatioName, threshold_problem, threshold_weight
from saepipe.train.penalties.base import ANY, SHARE, Penalised, State, StepContext, WhenRead
from saepipe.train.penalties.observed_pairs import ObservedPairs
from saepipe.train.setting import Setting, SettingsNow, configured_values, within

ABSORBED = math.sqrt(0.5)
"""Cosine between a parent u_p and a child that has fully absorbed it, (u_p + u_c) / sqrt 2."""


class Absorption(ObservedPairs):
    """E_b |x|^2 / d_sae * sum over candidate pairs of w_ij relu(d_i . d_j - margin)^2.

    Candidates are pairs of near neighbours with cosine above tau, both active often enough, and expected by chance to
    be active together often enough for a ratio to mean something. They need not be seen together: absorption stops it.
    For `suppression`, w is relu(1 - E[f_i | j active] / E[f_i | i active]), where i is active more often than j. The
    other ratios R have a threshold: w = min(1, relu(R / rho - 1)). No gradient passes through w.
    """

    name: Literal["absorption"] = "absorption"
    statistics: ClassVar = {
        **selection.RANGES,
        "active_share": SHARE,  # share of the latents that pass min_firings and min_rate
        "eligible_share": SHARE,  # share of the neighbour pairs that are eligible
        "ratio_in": ANY,  # mean ratio of the chosen pairs
        "ratio_out": ANY,  # mean ratio of the eligible pairs that were not chosen
    }

    ratio: RatioName = "suppression"
    rho: Annotated[Setting | None, within(0, math.inf)] = Field(None, description="threshold of the ratio")
    tau: Annotated[Setting, within(-1, 1)] = Field(0.1, description="cosine above which a pair is a candidate")
    margin: Annotated[Setting, within(-1, 1)] = Field(0.0, description="cosine down to which pairs are pushed apart")
    min_rate: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="least density of a latent; study A: 0.001")

    @model_validator(mode="after")
    def _threshold_can_be_reached(self) -> Self:
        if problem := threshold_problem(self.ratio, configured_values(self.rho)):
            raise ValueError(problem)
        return self

    def doubts(self) -> Sequence[str]:
        highest = max(configured_values(self.tau))
        if highest < ABSORBED:
            return ()
        return (
            f"tau = {highest:g}: a child that has fully absorbed its parent has cosine {ABSORBED:.3f} with it, below "
            "tau, so the pairs that need the penalty most never get it; 0.3 or less would do",
        )

    def init_state(self, d_in: int, d_sae: int) -> State:
        return self.initial_pairs(d_sae, RATIOS[self.ratio].joint)

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        seen = self.observe(ctx, state, RATIOS[self.ratio].joint)
        eligible = seen.judged & (seen.cosine > now["tau"])
        ratio = RATIOS[self.ratio].formula(seen.means)
        weight = (threshold_weight(ratio, now["rho"]) if "rho" in now else ratio) * eligible
        state = seen.refreshed(ctx.W_dec, lambda: weight > 0)
        scale = ctx.power / len(ctx.W_dec)
        value = hinge(ctx.W_dec, seen.pairs, seen.cosine, scale * weight.to(scale.dtype), now["margin"])
        statistics = WhenRead(
            lambda: {
                **selection.statistics(
                    state, seen.pairs, seen.cosine, weight > 0, selection.marked_pairs(seen.cosine, eligible)
                ),
                "active_share": (state["rate"] >= self.least_rate(state)).float().mean(),
                "eligible_share": eligible.sum() / seen.real.sum().clamp_min(1),
                "ratio_in": selection.masked_mean(ratio, weight > 0),
                "ratio_out": selection.masked_mean(ratio, eligible & (weight <= 0)),
            }
        )
        return Penalised(value, statistics, state)

    def least_rate(self, state: State) -> float | Tensor:
        least = super().least_rate(state)
        return (self.min_rate * state["seen"]).clamp_min(least) if self.min_rate else least
