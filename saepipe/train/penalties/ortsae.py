"""OrtSAE: each latent's largest cosine is pushed down (Korznikov et al. 2025, arXiv 2509.22033)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.train.pairs import selection
from saepipe.train.pairs.hinge import hinge
from saepipe.train.pairs.nearest_in_chunk import initial_nearest, nearest_pairs, nearest_statistics
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext, WhenRead
from saepipe.train.setting import SettingsNow


class OrtSAE(Penalty):
    """E_b |x|^2 / d_sae * sum_i relu(max_j d_i . d_j)^2, j among the other latents of a random chunk.

    The paper assigns latents to chunks and adds the term on every fifth step, five times as strong. Here every fifth
    step assigns the chunks and searches for the maxima, and every step has the term, on the pairs of the last search.
    """

    name: Literal["ortsae"] = "ortsae"
    statistics: ClassVar = selection.RANGES
    draws: ClassVar = True

    chunk: Annotated[Count, Field(ge=4)] = Field(4096, description="largest number of latents per chunk")
    every: Annotated[Count, Field(ge=1)] = Field(5, description="steps between two searches")

    def draws_at(self, step: int) -> bool:
        return step % self.every == 0

    def init_state(self, d_in: int, d_sae: int) -> State:
        return initial_nearest(d_sae)

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        due = self.draws_at(ctx.step)
        state, pairs, cosine = nearest_pairs(state, ctx.W_dec, ctx.uniform, self.chunk, due=due)
        value = hinge(ctx.W_dec, pairs, cosine, weight=ctx.power / len(cosine))
        statistics = WhenRead(lambda: nearest_statistics(state, ctx.W_dec, pairs, cosine))
        return Penalised(value, statistics, state)
