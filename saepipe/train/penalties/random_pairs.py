"""Placebo for the pair penalties: the same hinge, on pairs chosen at random."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.train.pairs import selection
from saepipe.train.pairs.hinge import cosines, hinge
from saepipe.train.pairs.keys import Pairs, is_pair, keys_of
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext, WhenRead
from saepipe.train.setting import Setting, SettingsNow, within


class RandomPairs(Penalty):
    """E_b |x|^2 / d_sae * sum over random pairs of relu(d_i . d_j - margin)^2, new pairs in each step.

    A penalty that chooses its pairs must beat this one, which has the same formula without the choice. Half of all
    pairs have a positive cosine, so margin 0 has a gradient; -1 pushes every sampled pair apart.
    """

    name: Literal["random_pairs"] = "random_pairs"
    statistics: ClassVar = selection.RANGES
    draws: ClassVar = True

    pairs_per_latent: Annotated[Count, Field(ge=1, le=1024)] = 1
    margin: Annotated[Setting, within(-1, 1)] = 0.0

    def init_state(self, d_in: int, d_sae: int) -> State:
        return selection.initial_state(d_sae * self._rounds(d_sae), d_sae)

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        batch, d_sae = len(ctx.x), len(ctx.W_dec)
        assert ctx.uniform is not None
        circle = ctx.uniform.argsort()  # each latent is paired with those 1, 2, ... positions further round
        partners = torch.stack([circle.roll(shift) for shift in range(1, self._rounds(d_sae) + 1)])
        pairs = Pairs(torch.stack([circle.expand_as(partners), partners]).flatten(1), d_sae)
        cosine = cosines(ctx.W_dec, pairs)
        value = hinge(ctx.W_dec, pairs, cosine, ctx.power / d_sae, now["margin"])
        if selection.search_is_due(None, ctx.step, batch, d_sae):
            keys = keys_of(pairs.i, pairs.j, d_sae)
            state = state | selection.refreshed_state(state, ctx.W_dec, keys, is_pair(keys, d_sae))
        statistics = WhenRead(
            lambda: selection.statistics(
                state, pairs, cosine, torch.ones_like(cosine).bool(), selection.all_pairs(ctx.W_dec)
            )
        )
        return Penalised(value, statistics, state)

    def _rounds(self, d_sae: int) -> int:
        """Number of shifts: fewer than d_sae / 2, so that no pair comes up from both ends."""
        return min(self.pairs_per_latent, (d_sae - 1) // 2)
