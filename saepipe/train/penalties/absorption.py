"""Absorption: a parent goes silent where its child is active, and the child's decoder row takes over its direction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from saepipe.data.config.base import Count
from saepipe.train.pairs import selection
from saepipe.train.pairs.hinge import cosines, hinge
from saepipe.train.pairs.keys import is_pair, pairs_at
from saepipe.train.pairs.ratios import RATIOS, RatioName, threshold_problem, threshold_weight
from saepipe.train.pairs.running_means import carried_over, initial_means, moments, updated_means
from saepipe.train.pairs.search import neighbour_keys
from saepipe.train.penalties.base import ANY, SHARE, Penalised, Penalty, State, StepContext, WhenRead
from saepipe.train.setting import Setting, SettingsNow, configured_values, within

ABSORBED = math.sqrt(0.5)
"""Cosine between a parent u_p and a child that has fully absorbed it, (u_p + u_c) / sqrt 2."""


class Absorption(Penalty):
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
    window: Annotated[Count, Field(ge=1)] = Field(204_800, description="tokens in the means; study A: 100 batches")
    min_firings: Annotated[float, Field(ge=0)] = Field(50, description="least activations per latent in the window")
    min_rate: Annotated[float, Field(ge=0, le=1)] = Field(0.0, description="least density of a latent; study A: 0.001")
    min_expected_joint: Annotated[float, Field(ge=0)] = Field(10, description="least N p_i p_j of an eligible pair")
    neighbours: Annotated[Count, Field(ge=1, le=1024)] = Field(4, description="nearest neighbours searched per latent")
    refresh_every: Annotated[Count, Field(ge=1)] | None = Field(
        None, description="steps; null: takes 5 to 10 % of the time"
    )
    statistics_tokens: Annotated[Count, Field(ge=1)] | None = Field(1024, description="tokens per batch; null: all")

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
        num_pairs = d_sae * min(self.neighbours, d_sae - 1)
        return initial_means(num_pairs, d_sae, RATIOS[self.ratio].joint) | selection.initial_state(num_pairs, d_sae)

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        batch, d_sae = len(ctx.x), len(ctx.W_dec)
        num_joint = min(self.statistics_tokens or batch, batch)
        due = selection.search_is_due(self.refresh_every, ctx.step, batch, d_sae)
        if due:
            max_cos, keys = neighbour_keys(ctx.W_dec, self.neighbours)
            state = carried_over(state, keys, d_sae)
        pairs, real = pairs_at(state["keys"], d_sae, ascending=True), is_pair(state["keys"], d_sae)
        rate, mean, share = ctx.rate, ctx.acts_sum.detach() / batch, min(1.0, batch / self.window)
        state = updated_means(state, pairs, rate, mean, ctx.first_acts(num_joint), RATIOS[self.ratio].joint, share)
        means = moments(state, pairs, self.window * num_joint / batch)
        cosine = cosines(ctx.W_dec, pairs)
        # The child is active less often than the parent, so that both are active often enough if the child is.
        often = means.rate_child * state["seen"] >= self._least_rate(state)
        expected = means.num_tokens * means.rate_parent * means.rate_child
        meaningful = real & often & (expected >= self.min_expected_joint)
        eligible = meaningful & (cosine > now["tau"])
        ratio = RATIOS[self.ratio].formula(means)
        weight = (threshold_weight(ratio, now["rho"]) if "rho" in now else ratio) * eligible
        if due:
            state = state | selection.refreshed_state(state, ctx.W_dec, state["keys"], weight > 0, max_cos)
        scale = ctx.power / d_sae
        value = hinge(ctx.W_dec, pairs, cosine, scale * weight.to(scale.dtype), now["margin"])
        statistics = WhenRead(
            lambda: {
                **selection.statistics(state, pairs, cosine, weight > 0, selection.marked_pairs(cosine, eligible)),
                "active_share": (state["rate"] >= self._least_rate(state)).float().mean(),
                "eligible_share": eligible.sum() / real.sum().clamp_min(1),
                "ratio_in": selection.masked_mean(ratio, weight > 0),
                "ratio_out": selection.masked_mean(ratio, eligible & (weight <= 0)),
            }
        )
        return Penalised(value, statistics, state)

    def _least_rate(self, state: State) -> float | Tensor:
        """Returns what `rate` must reach, which like `seen` starts at 0: from `min_firings` and `min_rate`."""
        least = self.min_firings / self.window
        return (self.min_rate * state["seen"]).clamp_min(least) if self.min_rate else least
