"""Orthogonality of the decoder: of all pairs, or of near neighbours only."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from saepipe.data.config.base import Count
from saepipe.train.pairs.gates import GATE_RANGES, all_pairs, fresh_gate, gate_statistics, refreshed_gate, refreshes
from saepipe.train.pairs.hinge import cosines, hinge, with_gradient
from saepipe.train.pairs.keys import no_pairs, pairs_at
from saepipe.train.pairs.search import nearest, neighbour_keys
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.setting import Setting, SettingsNow, within


class Orthogonality(Penalty):
    """E_b |x|^2 / d_sae * sum_{i<j} (d_i . d_j)^2 over all pairs, or relu(d_i . d_j - margin)^2 over near neighbours.

    All pairs cost one product with the d_in x d_in matrix D^T D, since |D D^T|_F = |D^T D|_F. With d_sae far above
    d_in this sum cannot fall below (d_sae / d_in - 1) / 2: most of it is the price of superposition. Hence the hinge.
    """

    name: Literal["orthogonality"] = "orthogonality"
    statistics: ClassVar = GATE_RANGES

    form: Literal["all_pairs", "hinge"] = "all_pairs"
    margin: Annotated[Setting, within(-1, 1)] = Field(0.0, description="of the hinge")
    neighbours: Annotated[Count, Field(ge=1)] = Field(4, description="searched of each latent")
    refresh_every: Annotated[Count, Field(ge=1)] | None = Field(None, description="steps; null: 1 % of the time")

    def init_state(self, d_in: int, d_sae: int) -> State:
        if self.form == "all_pairs":
            return {"max_cos_mean": torch.zeros(())}
        num_pairs = d_sae * min(self.neighbours, d_sae - 1)
        return {"keys": no_pairs(num_pairs, d_sae), **fresh_gate(num_pairs, d_sae)}

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        due = refreshes(self.refresh_every, ctx.step, len(ctx.x), len(ctx.W_dec))
        return self._all_pairs(ctx, state, due) if self.form == "all_pairs" else self._hinge(ctx, state, now, due)

    def _all_pairs(self, ctx: StepContext, state: State, due: bool) -> Penalised:
        if due:
            state = {"max_cos_mean": nearest(ctx.W_dec, 1)[0].mean().to(state["max_cos_mean"].dtype)}
        pairs = all_pairs(ctx.W_dec)
        nothing, everything = torch.zeros_like(pairs.num), torch.ones_like(pairs.num)
        statistics = {
            "num_pairs": pairs.num,
            "selected_share": everything,
            "self_share": nothing,
            "cos_in": pairs.cosine_sum / pairs.num,
            "cos_out": nothing,
            "jaccard": everything,
            "survival": everything,
        }
        return Penalised(ctx.power / len(ctx.W_dec) * squared_cosines(ctx.W_dec), statistics | state, state)

    def _hinge(self, ctx: StepContext, state: State, now: SettingsNow, due: bool) -> Penalised:
        d_sae = len(ctx.W_dec)
        if due:
            max_cos, keys = neighbour_keys(ctx.W_dec, self.neighbours)
            state = state | {"keys": keys}
        pairs = pairs_at(state["keys"], d_sae)
        cosine = cosines(ctx.W_dec, pairs)
        chosen = pairs.real & (cosine > now["margin"])
        if due:
            state = state | refreshed_gate(state, ctx.W_dec, state["keys"], chosen, max_cos)
        value = ctx.power / d_sae * hinge(ctx.W_dec, pairs, cosine, pairs.real.to(cosine.dtype), now["margin"])
        return Penalised(value, gate_statistics(state, pairs, cosine, chosen, all_pairs(ctx.W_dec)), state)


def squared_cosines(W_dec: Tensor) -> Tensor:
    """sum_{i<j} (d_i . d_j)^2, () with gradient; W_dec (d_sae, d_in).

    The gradient, 2 (D D^T D - diag(|d_i|^2) D), is written out: it shares D^T D with the value.
    """
    D = W_dec.detach()
    gram = D.T @ D
    own = D.square().sum(1, keepdim=True)
    value = (gram.square().sum() - own.square().sum()) / 2
    return value + with_gradient(W_dec, 2 * (D @ gram - own * D))
