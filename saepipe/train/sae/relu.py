"""The plain sparse autoencoder: a ReLU, made sparse by a penalty (Bricken et al. 2023, Towards Monosemanticity)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Architecture, Params, entries_above


class ReLU(Architecture):
    """acts = max(pre_acts, 0)."""

    name: Literal["relu"] = "relu"
    elementwise: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    in_pieces: ClassVar[bool] = True
    in_blocks: ClassVar[bool] = True

    def part(self, latents: range) -> Self:
        return self.model_copy(update={"d_sae": len(latents)})

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        return pre_acts.relu()

    def activate_at(self, params: Params, pre_acts: Tensor, latents: Tensor) -> Tensor:
        return pre_acts.relu()

    def among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> Tensor:
        return pre_acts > 0

    def floor(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor:
        return spread.new_zeros(())

    def nonzero(self, params: Params, pre_acts: Tensor) -> tuple[Tensor, Tensor]:
        return entries_above(pre_acts, 0.0)

    def mask(self, params: Params, pre_acts: Tensor) -> Tensor:
        return pre_acts > 0
