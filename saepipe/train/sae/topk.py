"""TopK: the k largest latents per token (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import model_validator
from torch import Tensor

from saepipe.train.kernels.largest import at_most_kth, largest
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.active_count import WholeK, check_k, k_now, last_k
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.rivals import Rivals

ROUNDING = 2.0**-8
"""Relative error of an upper bound, which is a bfloat16."""


class TopK(Architecture):
    """acts = max(pre_acts, 0) at each token's k largest pre-activations, 0 elsewhere; k may follow a schedule."""

    name: Literal["topk"] = "topk"
    sparse: ClassVar[bool] = True
    in_pieces: ClassVar[bool] = True
    in_blocks: ClassVar[bool] = True
    k: WholeK

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        check_k(self.k, self.d_sae, whole=True)
        return self

    @property
    def num_active(self) -> int:
        return round(last_k(self.k))

    @property
    def kept(self) -> int:
        """Active latents per token of the architecture of one step."""
        return int(k_now(self.k))

    def with_numbers(self, values: Mapping[str, float]) -> Self:
        return super().with_numbers({name: round(value) if name == "k" else value for name, value in values.items()})

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        values, indices = pre_acts.topk(self.kept, dim=-1, sorted=False)
        return pre_acts.new_zeros(pre_acts.shape).scatter(-1, indices, values.relu())

    def part(self, latents: range) -> Self:
        return self.model_copy(update={"d_sae": len(latents)})

    def activate_part(self, params: Params, pre_acts: Tensor, rivals: Rivals) -> Tensor:
        values, indices = rivals.largest_per_token(pre_acts, self.kept)
        return pre_acts.new_zeros(pre_acts.shape).scatter(-1, indices, values.relu())

    def pattern(self, params: Params, pre_acts: Tensor) -> Pattern:
        return Pattern.of_sorted(largest(pre_acts, self.kept), self.d_sae)

    def nonzero(self, params: Params, pre_acts: Tensor) -> tuple[Tensor, Tensor]:
        pattern = self.pattern(params, pre_acts)
        return _nonzero(pattern.positions, pattern.values_of(pre_acts))

    def nonzero_among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> tuple[Tensor, Tensor]:
        kept = self.among(params, entries, pre_acts)
        return _nonzero(entries.positions.index_select(0, kept), pre_acts.index_select(0, kept))

    def among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> Tensor:
        return entries.largest(pre_acts, self.kept)

    def floor(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor:
        kth = at_most_kth(upper, self.kept).float()
        return kth - ROUNDING * kth.abs() - spread

    def activate_at(self, params: Params, pre_acts: Tensor, latents: Tensor) -> Tensor:
        return pre_acts.relu()


def _nonzero(positions: Tensor, pre_acts: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the positions of kept entries (num_entries,) whose activation is not 0, and the activations."""
    acts = pre_acts.relu()
    return positions[acts != 0], acts[acts != 0]
