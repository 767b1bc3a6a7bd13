"""Orthogonality of the pairs that are most co-active in the batch, or have the highest cosine (study B)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saepipe.data.config.base import Count
from saepipe.train.pairs import selection
from saepipe.train.pairs.coactivation import top_coactive
from saepipe.train.pairs.hinge import cosines, hinge
from saepipe.train.pairs.keys import empty_keys, find, is_pair, no_pair, pairs_at
from saepipe.train.pairs.search import top_pairs
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext, WhenRead
from saepipe.train.schedule import Controller
from saepipe.train.setting import Setting, SettingsNow, configured_values, within


class TopKOrthogonality(Penalty):
    """E_b |x|^2 / d_sae * sum over the K chosen pairs of relu(d_i . d_j - tau)^2.

    `coactivation` chooses, in each step, the K pairs with the largest E_b acts_i acts_j > 0; `cosine` chooses those
    with the largest d_i . d_j, searched every few steps; `both` takes the K / 2 largest of each. The sum is divided by
    d_sae, not by K, so that a weight has the same effect on a pair for every K, also while K follows a schedule.
    """

    name: Literal["topk_orthogonality"] = "topk_orthogonality"
    statistics: ClassVar = selection.RANGES

    select: Literal["coactivation", "cosine", "both"] = "cosine"
    pairs_per_latent: Annotated[Setting | None, within(0, math.inf)] = Field(None, description="K / d_sae")
    fraction: Annotated[Setting | None, within(0, 1)] = Field(None, description="K / (d_sae (d_sae - 1) / 2)")
    tau: Annotated[Setting, within(-1, 1)] = Field(0.0, description="cosine down to which pairs are pushed apart")
    refresh_every: Annotated[Count, Field(ge=1)] | None = Field(
        None, description="steps; null: takes 5 to 10 % of the time"
    )
    statistics_tokens: Annotated[Count, Field(ge=1)] | None = Field(1024, description="tokens per batch; null: all")

    @model_validator(mode="before")
    @classmethod
    def _default_size(cls, raw: Any) -> Any:
        sizes = ("pairs_per_latent", "fraction")
        if not isinstance(raw, Mapping) or any(raw.get(size) is not None for size in sizes):
            return raw
        return {**raw, "pairs_per_latent": 1.0}

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.pairs_per_latent is not None and self.fraction is not None:
            raise ValueError("pairs_per_latent and fraction both set the number of pairs: leave one out")
        if isinstance(self.pairs_per_latent or self.fraction, Controller):
            raise ValueError("the number of pairs may follow a schedule, not a controller: it needs a largest value")
        return self

    def init_state(self, d_in: int, d_sae: int) -> State:
        slots = min(math.ceil(float(self._size(self._largest(), d_sae))), d_sae * (d_sae - 1) // 2)
        by_cosine = 0 if self.select == "coactivation" else slots
        chosen = selection.initial_state(2 * slots if self.select == "both" else slots, d_sae)
        return {"keys": empty_keys(by_cosine, d_sae), **chosen}

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        d_sae = len(ctx.W_dec)
        due = selection.search_is_due(self.refresh_every, ctx.step, len(ctx.x), len(ctx.W_dec))
        if due and self.select != "coactivation":
            state = state | {"keys": top_pairs(ctx.W_dec, len(state["keys"])).keys.sort().values}
        searched, coactive = state["keys"], self._coactive(ctx, state)
        keys = torch.cat([searched, coactive]) if len(coactive) else searched
        pairs = pairs_at(keys, d_sae, ascending=not len(coactive))
        cosine = cosines(ctx.W_dec, pairs)
        chosen = is_pair(keys, d_sae) & first_of_each(searched, coactive, cosine, self._size(now, d_sae), d_sae)
        if due:
            state = state | selection.refreshed_state(state, ctx.W_dec, keys, chosen)
        value = hinge(ctx.W_dec, pairs, cosine, ctx.power / d_sae * chosen, now["tau"])
        statistics = WhenRead(
            lambda: selection.statistics(state, pairs, cosine, chosen, selection.all_pairs(ctx.W_dec))
        )
        return Penalised(value, statistics, state)

    def _largest(self) -> dict[str, float]:
        """Returns the size setting at its largest."""
        sizes = {name: configured_values(getattr(self, name)) for name in ("pairs_per_latent", "fraction")}
        return {name: max(values) for name, values in sizes.items() if values}

    def _size(self, now: SettingsNow, d_sae: int) -> float | Tensor:
        """Number of pairs that each way of selecting chooses."""
        size = now["fraction"] * (d_sae * (d_sae - 1) / 2) if "fraction" in now else now["pairs_per_latent"] * d_sae
        return size / 2 if self.select == "both" else size

    def _coactive(self, ctx: StepContext, state: State) -> Tensor:
        """Returns the keys of the most co-active pairs, in descending order; empty if `select` does not need them."""
        slots = len(state["chosen"]) - len(state["keys"])
        if not slots:
            return state["keys"][:0]
        return top_coactive(ctx.first_acts(self.statistics_tokens or len(ctx.x)), slots).keys


def first_of_each(searched: Tensor, coactive: Tensor, cosine: Tensor, size: float | Tensor, d_sae: int) -> Tensor:
    """Marks the first `size` pairs of two lists, (num_searched + num_coactive,) bool; a pair in both is marked once.

    Args:
        searched: (num_searched,) keys in ascending order, to be ranked by cosine.
        coactive: (num_coactive,) keys in the order of their rank.
        cosine: of the pairs of `searched`, then of `coactive`.
        size: number of pairs to mark in each list.
        d_sae: number of latents.
    """
    by_cosine = cosine[: len(searched)].masked_fill(searched == no_pair(d_sae), float("-inf"))
    near = by_cosine.argsort(descending=True).argsort() < size
    if not len(coactive):
        return near
    active = torch.arange(len(coactive), device=coactive.device) < size
    if len(searched):
        position, in_both = find(coactive, searched, d_sae)
        active = active & ~(in_both & near[position])
    return torch.cat([near, active])
