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

GROUP = 16
"""Latents of which only the largest upper bound is compared with those of other groups."""


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

    def among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> Tensor:
        return entries.largest(pre_acts, self.k)

    def floor(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor:
        kth = self._at_most_kth(upper).float()
        return kth - ROUNDING * kth.abs() - spread

    def _at_most_kth(self, values: Tensor) -> Tensor:
        """Returns a number that at least k values of each row (num_rows, num_columns) reach, (num_rows, 1).

        If there are many columns, the k-th largest of the maxima of groups: they are few, and it is hardly smaller than
        that of all.
        """
        num_groups = values.shape[1] // GROUP
        if num_groups >= 4 * self.k:
            values = values[:, : num_groups * GROUP].view(len(values), GROUP, num_groups).amax(1)
        return values.topk(self.k, dim=1, sorted=False).values.amin(1, keepdim=True)

    def activate_at(self, params: Params, pre_acts: Tensor, latents: Tensor) -> Tensor:
        return pre_acts.relu()
