"""Orthogonality of the pairs that are most active together in this batch, or have the highest cosine (study B)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saepipe.data.config.base import Count
from saepipe.train.pairs.coactivation import top_coactive
from saepipe.train.pairs.gates import GATE_RANGES, all_pairs, fresh_gate, gate_statistics, refreshed_gate, refreshes
from saepipe.train.pairs.hinge import cosines, hinge
from saepipe.train.pairs.keys import find, no_pair, no_pairs, pairs_at
from saepipe.train.pairs.search import top_pairs
from saepipe.train.penalties.base import Penalised, Penalty, State, StepContext
from saepipe.train.setting import Controller, Setting, SettingsNow, numbers, within


class TopKOrthogonality(Penalty):
    """E_b |x|^2 / d_sae * sum over the K chosen pairs of relu(d_i . d_j - tau)^2.

    `coactivation` chooses, in each step, the K pairs with the largest E_b acts_i acts_j > 0; `cosine` those with the
    largest d_i . d_j, searched every few steps; `both` the K / 2 largest of each. The sum is divided by d_sae, not
    by K: a weight then means the same pull on a pair whatever K is, and while K follows a schedule.
    """

    name: Literal["topk_orthogonality"] = "topk_orthogonality"
    statistics: ClassVar = GATE_RANGES

    select: Literal["coactivation", "cosine", "both"] = "cosine"
    pairs_per_latent: Annotated[Setting | None, within(0, math.inf)] = Field(None, description="K / d_sae")
    fraction: Annotated[Setting | None, within(0, 1)] = Field(None, description="K / (d_sae (d_sae - 1) / 2)")
    tau: Annotated[Setting, within(-1, 1)] = Field(0.0, description="cosine down to which pairs are pushed apart")
    refresh_every: Annotated[Count, Field(ge=1)] | None = Field(None, description="steps; null: 1 % of the time")
    statistics_tokens: Annotated[Count, Field(ge=1)] | None = Field(1024, description="of a batch; null: all")

    @model_validator(mode="before")
    @classmethod
    def _one_pair_a_latent(cls, raw: Any) -> Any:
        sizes = ("pairs_per_latent", "fraction")
        if not isinstance(raw, Mapping) or any(raw.get(size) is not None for size in sizes):
            return raw
        return {**raw, "pairs_per_latent": 1.0}

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if self.pairs_per_latent is not None and self.fraction is not None:
            raise ValueError("both pairs_per_latent and fraction say how many pairs: leave one out")
        if isinstance(self.pairs_per_latent or self.fraction, Controller):
            raise ValueError(
                "the number of pairs may follow a schedule, but not a controller: it needs a largest value"
            )
        return self

    def init_state(self, d_in: int, d_sae: int) -> State:
        places = min(math.ceil(float(self._size(self._largest(), d_sae))), d_sae * (d_sae - 1) // 2)
        searched = 0 if self.select == "coactivation" else places
        return {"keys": no_pairs(searched, d_sae), **fresh_gate(2 * places if self.select == "both" else places, d_sae)}

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        d_sae = len(ctx.W_dec)
        due = refreshes(self.refresh_every, ctx.step, len(ctx.x), len(ctx.W_dec))
        if due and self.select != "coactivation":
            state = state | {"keys": top_pairs(ctx.W_dec, len(state["keys"])).keys.sort().values}
        searched, coactive = state["keys"], self._coactive(ctx, state)
        keys = torch.cat([searched, coactive])
        pairs = pairs_at(keys, d_sae)
        cosine = cosines(ctx.W_dec, pairs)
        chosen = pairs.real & first_of_each(searched, coactive, cosine, self._size(now, d_sae), d_sae)
        if due:
            state = state | refreshed_gate(state, ctx.W_dec, keys, chosen)
        value = ctx.power / d_sae * hinge(ctx.W_dec, pairs, cosine, chosen.to(cosine.dtype), now["tau"])
        return Penalised(value, gate_statistics(state, pairs, cosine, chosen, all_pairs(ctx.W_dec)), state)

    def _largest(self) -> dict[str, float]:
        """The size at its largest."""
        sizes = {"pairs_per_latent": numbers(self.pairs_per_latent), "fraction": numbers(self.fraction)}
        return {name: max(ends) for name, ends in sizes.items() if ends}

    def _size(self, now: SettingsNow, d_sae: int) -> float | Tensor:
        """How many pairs each of the choices has."""
        size = now["fraction"] * (d_sae * (d_sae - 1) / 2) if "fraction" in now else now["pairs_per_latent"] * d_sae
        return size / 2 if self.select == "both" else size

    def _coactive(self, ctx: StepContext, state: State) -> Tensor:
        """The pairs most active together, in descending order; none where they are not asked for."""
        places = len(state["chosen"]) - len(state["keys"])
        if not places:
            return state["keys"][:0]
        return top_coactive(ctx.first_acts(self.statistics_tokens or len(ctx.x)), places).keys


def first_of_each(searched: Tensor, coactive: Tensor, cosine: Tensor, size: float | Tensor, d_sae: int) -> Tensor:
    """Marks the first `size` of two choices, (num_searched + num_coactive,) bool; a pair of both is marked once.

    Args:
        searched: (num_searched,) keys in ascending order, to be ranked by cosine.
        coactive: (num_coactive,) keys in the order of their rank.
        cosine: of the one and then of the other.
        size: of each choice.
        d_sae: of the SAE.
    """
    by_cosine = cosine[: len(searched)].masked_fill(searched == no_pair(d_sae), float("-inf"))
    near = by_cosine.argsort(descending=True).argsort() < size
    active = torch.arange(len(coactive), device=coactive.device) < size
    if len(searched) and len(coactive):
        position, found = find(coactive, searched, d_sae)
        active = active & ~(found & near[position])
    return torch.cat([near, active])
