"""TopK: the k largest latents per token (Gao et al. 2024, arXiv 2406.04093)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from saepipe.data.config.base import Count
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Architecture, Params

ROUNDING = 2.0**-8
"""Relative error of an upper bound, which is a bfloat16."""


class TopK(Architecture):
    """acts = max(pre_acts, 0) at each token's k largest pre-activations, 0 elsewhere."""

    name: Literal["topk"] = "topk"
    sparse: ClassVar[bool] = True
    in_pieces: ClassVar[bool] = True
    k: Annotated[Count, Field(ge=1)]

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if self.k > self.d_sae:
            raise ValueError(f"k = {self.k} is more than d_sae = {self.d_sae}")
        return self

    @property
    def num_active(self) -> int | None:
        return self.k

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        values, indices = pre_acts.topk(self.k, dim=-1, sorted=False)
        return pre_acts.new_zeros(pre_acts.shape).scatter(-1, indices, values.relu())

    def pattern(self, params: Params, pre_acts: Tensor) -> Pattern:
        return Pattern.of_indices(pre_acts.topk(self.k, dim=-1, sorted=False).indices, self.d_sae)

    def nonzero(self, params: Params, pre_acts: Tensor) -> tuple[Tensor, Tensor]:
        pattern = self.pattern(params, pre_acts)
        acts = pattern.values_of(pre_acts).relu()
        return pattern.positions[acts != 0], acts[acts != 0]

    def floor(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor:
        kth = upper.topk(self.k, dim=1, sorted=False).values.amin(1, keepdim=True).float()
        return kth - ROUNDING * kth.abs() - spread

    def activate_at(self, params: Params, pre_acts: Tensor, latents: Tensor) -> Tensor:
        return pre_acts.relu()
