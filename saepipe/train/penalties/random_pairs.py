"""A placebo: the push of the pair penalties, on pairs chosen at random."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field

from saepipe.data.config.base import Count
from saepipe.train.pairs.gates import GATE_RANGES, all_pairs, fresh_gate, gate_statistics, refreshed_gate, refreshes
from saepipe.train.pairs.hinge import cosines, hinge
from saepipe.train.pairs.keys import keys_of, pairs_at
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.setting import Setting, SettingsNow, within


class RandomPairs(Penalty):
    """E_b |x|^2 / d_sae * sum over random pairs of relu(d_i . d_j - margin)^2, new pairs in each step.

    What a penalty that chooses its pairs must beat: the same formula, without the choice. Half of all pairs have a
    positive cosine, so margin 0 has a gradient; -1 pushes apart every pair drawn.
    """

    name: Literal["random_pairs"] = "random_pairs"
    statistics: ClassVar = GATE_RANGES
    draws: ClassVar = True

    pairs_per_latent: Annotated[Count, Field(ge=1)] = 1
    margin: Annotated[Setting, within(-1, 1)] = 0.0

    def init_state(self, d_in: int, d_sae: int) -> State:
        return fresh_gate(d_sae * self._rounds(d_sae), d_sae)

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        batch, d_sae = len(ctx.x), len(ctx.W_dec)
        assert ctx.uniform is not None
        circle = ctx.uniform.argsort()  # each latent is paired with those 1, 2, ... places further round
        rounds = range(1, self._rounds(d_sae) + 1)
        keys = torch.cat([keys_of(circle, circle.roll(places), d_sae) for places in rounds])
        pairs = pairs_at(keys, d_sae)
        cosine = cosines(ctx.W_dec, pairs)
        value = ctx.power / d_sae * hinge(ctx.W_dec, pairs, cosine, torch.ones_like(cosine), now["margin"])
        chosen = pairs.real
        if refreshes(None, ctx.step, batch, d_sae):
            state = state | refreshed_gate(state, ctx.W_dec, keys, chosen)
        return Penalised(value, gate_statistics(state, pairs, cosine, chosen, all_pairs(ctx.W_dec)), state)

    def _rounds(self, d_sae: int) -> int:
        """With fewer than d_sae / 2 places to go, no pair is met from both sides."""
        return min(self.pairs_per_latent, (d_sae - 1) // 2)
