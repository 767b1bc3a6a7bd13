"""Near pairs of latents, observed over a window of tokens: what penalties that weigh pairs by activity share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from saepipe.data.config.base import Count
from saepipe.train.pairs import selection
from saepipe.train.pairs.hinge import cosines
from saepipe.train.pairs.keys import Pairs, is_pair, pairs_at
from saepipe.train.pairs.running_means import Joint, Moments, carried_over, initial_means, moments, updated_means
from saepipe.train.pairs.search import neighbour_keys
from saepipe.train.penalties.base import Penalty, State, StepContext


@dataclass(frozen=True)
class Observed:
    """Near pairs at one step."""

    state: State
    pairs: Pairs
    cosine: Tensor  # (num_pairs,)
    real: Tensor  # (num_pairs,) bool: False in an unused slot
    means: Moments
    judged: Tensor  # (num_pairs,) bool: both latents are active often enough for a ratio of means to mean something
    max_cos: Tensor | None  # (d_sae,) each latent's largest cosine, at a step that searched

    def refreshed(self, W_dec: Tensor, chosen: Callable[[], Tensor]) -> State:
        """Returns the state; a step that searched records the pairs that `chosen` marks, (num_pairs,) bool."""
        if self.max_cos is None:
            return self.state
        return self.state | selection.refreshed_state(self.state, W_dec, self.state["keys"], chosen(), self.max_cos)


class ObservedPairs(Penalty):
    """A penalty on each latent's nearest neighbours, which keeps running means of their activity."""

    window: Annotated[Count, Field(ge=1)] = Field(204_800, description="tokens in the means; study A: 100 batches")
    min_firings: Annotated[float, Field(ge=0)] = Field(50, description="least activations per latent in the window")
    min_expected_joint: Annotated[float, Field(ge=0)] = Field(10, description="least N p_i p_j of an eligible pair")
    neighbours: Annotated[Count, Field(ge=1, le=1024)] = Field(4, description="nearest neighbours searched per latent")
    refresh_every: Annotated[Count, Field(ge=1)] | None = Field(
        None, description="steps; null: takes 5 to 10 % of the time"
    )
    statistics_tokens: Annotated[Count, Field(ge=1)] | None = Field(1024, description="tokens per batch; null: all")

    def initial_pairs(self, d_sae: int, joint: Joint | None) -> State:
        """Returns the state before the first step; `joint`: mean kept of a pair."""
        num_pairs = d_sae * min(self.neighbours, d_sae - 1)
        return initial_means(num_pairs, d_sae, joint) | selection.initial_state(num_pairs, d_sae)

    def observe(self, ctx: StepContext, state: State, joint: Joint | None) -> Observed:
        """Searches for near pairs if a search is due, and adds the step's tokens to the means."""
        batch, d_sae = len(ctx.x), len(ctx.W_dec)
        num_joint = min(self.statistics_tokens or batch, batch)
        max_cos = None
        if selection.search_is_due(self.refresh_every, ctx.step, batch, d_sae):
            max_cos, keys = neighbour_keys(ctx.W_dec, self.neighbours)
            state = carried_over(state, keys, d_sae)
        pairs, real = pairs_at(state["keys"], d_sae, ascending=True), is_pair(state["keys"], d_sae)
        rate, mean, share = ctx.rate, ctx.acts_sum.detach() / batch, min(1.0, batch / self.window)
        state = updated_means(state, pairs, rate, mean, ctx.first_acts(num_joint), joint, share)
        means = moments(state, pairs, self.window * num_joint / batch)
        # The child is active less often than the parent, so that both are active often enough if the child is.
        often = means.rate_child * state["seen"] >= self.least_rate(state)
        expected = means.num_tokens * means.rate_parent * means.rate_child
        judged = real & often & (expected >= self.min_expected_joint)
        return Observed(state, pairs, cosines(ctx.W_dec, pairs), real, means, judged, max_cos)

    def least_rate(self, state: State) -> float | Tensor:
        """Returns what `rate`, which like `seen` starts at 0, must reach."""
        return self.min_firings / self.window
