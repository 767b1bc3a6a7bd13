"""Orthogonality of the decoder rows: all pairs, or near neighbours only."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from saepipe.data.config.base import Count
from saepipe.train.kernels.autograd import with_gradient
from saepipe.train.pairs import selection
from saepipe.train.pairs.hinge import cosines, hinge
from saepipe.train.pairs.keys import empty_keys, is_pair, pairs_at
from saepipe.train.pairs.search import nearest, neighbour_keys
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext, WhenRead
from saepipe.train.setting import Setting, SettingsNow, within


class Orthogonality(Penalty):
    """E_b |x|^2 / d_sae * sum_{i<j} (d_i . d_j)^2 over all pairs, or relu(d_i . d_j - margin)^2 over near neighbours.

    All pairs cost one product with the d_in x d_in matrix D^T D, since |D D^T|_F = |D^T D|_F. With d_sae far above
    d_in this sum cannot fall below (d_sae / d_in - 1) / 2: superposition accounts for most of it. Hence the hinge.
    """

    name: Literal["orthogonality"] = "orthogonality"
    statistics: ClassVar = selection.RANGES

    form: Literal["all_pairs", "hinge"] = "all_pairs"
    margin: Annotated[Setting, within(-1, 1)] = Field(0.0, description="cosine up to which the hinge is 0")
    neighbours: Annotated[Count, Field(ge=1, le=1024)] = Field(4, description="nearest neighbours searched per latent")
    refresh_every: Annotated[Count, Field(ge=1)] | None = Field(
        None, description="steps; null: takes 5 to 10 % of the time"
    )

    def init_state(self, d_in: int, d_sae: int) -> State:
        if self.form == "all_pairs":
            return {"max_cos_mean": torch.zeros(())}
        num_pairs = d_sae * min(self.neighbours, d_sae - 1)
        return {"keys": empty_keys(num_pairs, d_sae), **selection.initial_state(num_pairs, d_sae)}

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        due = selection.search_is_due(self.refresh_every, ctx.step, len(ctx.x), len(ctx.W_dec))
        return self._all_pairs(ctx, state, due) if self.form == "all_pairs" else self._hinge(ctx, state, now, due)

    def _all_pairs(self, ctx: StepContext, state: State, due: bool) -> Penalised:
        if due:
            state = {"max_cos_mean": nearest(ctx.W_dec, 1)[0].mean().to(state["max_cos_mean"].dtype)}
        value = ctx.power / len(ctx.W_dec) * squared_cosines(ctx.W_dec)
        return Penalised(value, WhenRead(lambda: all_pairs_statistics(ctx.W_dec) | state), state)

    def _hinge(self, ctx: StepContext, state: State, now: SettingsNow, due: bool) -> Penalised:
        d_sae = len(ctx.W_dec)
        if due:
            max_cos, keys = neighbour_keys(ctx.W_dec, self.neighbours)
            state = state | {"keys": keys}
        pairs, real = pairs_at(state["keys"], d_sae, ascending=True), is_pair(state["keys"], d_sae)
        cosine = cosines(ctx.W_dec, pairs)
        chosen = real & (cosine > now["margin"])
        if due:
            state = state | selection.refreshed_state(state, ctx.W_dec, state["keys"], chosen, max_cos)
        value = hinge(ctx.W_dec, pairs, cosine, ctx.power / d_sae * real, now["margin"])
        statistics = WhenRead(
            lambda: selection.statistics(state, pairs, cosine, chosen, selection.all_pairs(ctx.W_dec))
        )
        return Penalised(value, statistics, state)


def all_pairs_statistics(W_dec: Tensor) -> dict[str, Tensor]:
    """Returns the statistics of the choice of all pairs, but for those of the state."""
    pairs = selection.all_pairs(W_dec)
    zero, one = torch.zeros_like(pairs.num), torch.ones_like(pairs.num)
    return {
        "num_pairs": pairs.num,
        "selected_share": one,
        "self_share": zero,
        "cos_in": pairs.cosine_sum / pairs.num,
        "cos_out": zero,
        "jaccard": one,
        "survival": one,
    }


def squared_cosines(W_dec: Tensor) -> Tensor:
    """Returns sum_{i<j} (d_i . d_j)^2, () with gradient; W_dec (d_sae, d_in).

    The gradient, 2 (D D^T D - diag(|d_i|^2) D), is written out because it shares D^T D with the value.
    """
    D = W_dec.detach()
    gram = D.T @ D
    norms = D.square().sum(1, keepdim=True)
    value = (gram.square().sum() - norms.square().sum()) / 2
    return with_gradient(value, W_dec, torch.addmm(norms * D, D, gram, beta=-2, alpha=2))
