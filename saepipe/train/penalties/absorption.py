"""Absorption: a parent falls silent where its child fires, and the child's decoder row takes over its direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from saepipe.data.config.base import Count
from saepipe.train.pairs.gates import (
    GATE_RANGES,
    fresh_gate,
    gate_statistics,
    mean_of,
    refreshed_gate,
    refreshes,
    these_pairs,
)
from saepipe.train.pairs.hinge import cosines, hinge
from saepipe.train.pairs.keys import pairs_at
from saepipe.train.pairs.ratios import RATIOS, RatioName, threshold_mistake, threshold_weight
from saepipe.train.pairs.running_means import carried, fresh_moments, moments, moved
from saepipe.train.pairs.search import neighbour_keys
from saepipe.train.penalties.base import ANY, SHARE, Penalised, Penalty, State, StepContext
from saepipe.train.setting import Setting, SettingsNow, numbers, within

ABSORBED = math.sqrt(0.5)
"""Cosine of a parent u_p and a child that has absorbed it wholly, (u_p + u_c) / sqrt 2."""


class Absorption(Penalty):
    """E_b |x|^2 / d_sae * sum over candidate pairs of w_ij relu(d_i . d_j - margin)^2.

    Candidates are pairs of near neighbours with cosine above tau, both active, and expected by chance to fire
    together often enough that a ratio means something. Joint firings need not be seen: absorption removes them.
    w is relu(1 - E[f_i | j fires] / E[f_i | i fires]) with `suppression`, where i fires more often than j. The other
    ratios R have a threshold: w = min(1, relu(R / rho - 1)). No gradient passes through w.
    """

    name: Literal["absorption"] = "absorption"
    statistics: ClassVar = {
        **GATE_RANGES,
        "active_share": SHARE,  # of the latents
        "eligible_share": SHARE,  # of the candidate pairs
        "ratio_in": ANY,  # mean of the ratio over the chosen pairs
        "ratio_out": ANY,  # over the eligible pairs that were not chosen
    }

    ratio: RatioName = "suppression"
    rho: Annotated[Setting | None, within(0, math.inf)] = Field(None, description="threshold of the ratio")
    tau: Annotated[Setting, within(-1, 1)] = Field(0.1, description="cosine above which a pair is a candidate")
    margin: Annotated[Setting, within(-1, 1)] = Field(0.0, description="cosine down to which pairs are pushed apart")
    window: Annotated[Count, Field(ge=1)] = Field(204_800, description="tokens remembered: the study's 100 batches")
    min_firings: Annotated[float, Field(ge=0)] = Field(50, description="of an active latent, in the window")
    min_rate: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="of an active latent; study A: 0.001")
    min_expected_joint: Annotated[float, Field(ge=0)] = Field(10, description="N p_i p_j of an eligible pair")
    neighbours: Annotated[Count, Field(ge=1)] = Field(4, description="searched of each latent")
    refresh_every: Annotated[Count, Field(ge=1)] | None = Field(None, description="steps; null: 1 % of the time")
    statistics_tokens: Annotated[Count, Field(ge=1)] | None = Field(1024, description="of a batch; null: all")

    @model_validator(mode="after")
    def _threshold_can_be_reached(self) -> Self:
        if mistake := threshold_mistake(self.ratio, numbers(self.rho)):
            raise ValueError(mistake)
        return self

    def doubts(self) -> Sequence[str]:
        highest = max(numbers(self.tau))
        if highest < ABSORBED:
            return ()
        return (
            f"tau = {highest:g}: a child that has absorbed its parent wholly has cosine {ABSORBED:.3f} with it, below "
            "tau, so the pairs that need the penalty most never get it; 0.3 or less would do",
        )

    def init_state(self, d_in: int, d_sae: int) -> State:
        num_pairs = d_sae * min(self.neighbours, d_sae - 1)
        return fresh_moments(num_pairs, d_sae, RATIOS[self.ratio].joint) | fresh_gate(num_pairs, d_sae)

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        batch, d_sae = len(ctx.x), len(ctx.W_dec)
        num_joint = min(self.statistics_tokens or batch, batch)
        due = refreshes(self.refresh_every, ctx.step, batch, d_sae)
        if due:
            max_cos, keys = neighbour_keys(ctx.W_dec, self.neighbours)
            state = carried(state, keys, d_sae)
        rate, mean, share = ctx.rate, ctx.acts_sum.detach() / batch, min(1.0, batch / self.window)
        state = moved(state, rate, mean, ctx.first_acts(num_joint), RATIOS[self.ratio].joint, share)
        known = moments(state, self.window * num_joint / batch)
        pairs = pairs_at(state["keys"], d_sae)
        cosine = cosines(ctx.W_dec, pairs)
        active = (state["rate"] * self.window >= self.min_firings) & (state["rate"] >= self.min_rate * state["seen"])
        expected = known.num_tokens * known.rate_parent * known.rate_child
        could = pairs.real & active[pairs.i] & active[pairs.j] & (expected >= self.min_expected_joint)
        eligible = could & (cosine > now["tau"])
        ratio = RATIOS[self.ratio].of(known)
        weight = (threshold_weight(ratio, now["rho"]) if "rho" in now else ratio) * eligible
        chosen = weight > 0
        if due:
            state = state | refreshed_gate(state, ctx.W_dec, state["keys"], chosen, max_cos)
        value = ctx.power / d_sae * hinge(ctx.W_dec, pairs, cosine, weight.to(cosine.dtype), now["margin"])
        statistics = gate_statistics(state, pairs, cosine, chosen, these_pairs(cosine, eligible)) | {
            "active_share": active.float().mean(),
            "eligible_share": eligible.sum() / pairs.real.sum().clamp_min(1),
            "ratio_in": mean_of(ratio, chosen),
            "ratio_out": mean_of(ratio, eligible & ~chosen),
        }
        return Penalised(value, statistics, state)
