"""Nested dictionaries: the first latents must do without the later ones (Bussmann et al. 2025, arXiv 2503.17547)."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import ClassVar, Literal, Self

from pydantic import model_validator
from torch import Tensor

from saepipe.train.sae.base import Params
from saepipe.train.sae.batch_topk import BatchTopK


class MatryoshkaBatchTopK(BatchTopK):
    """A BatchTopK whose every prefix of m latents, for m in `groups`, reconstructs x too:

        loss = sum over m of E_b |x - acts[:m] W_dec[:m] - b_dec|^2

    `groups` are sizes, or, up to 1, fractions of d_sae (rounded up); all of d_sae is the last whether named or not.
    A general latent gains nothing by leaving to a later, special one what it must reconstruct without it.
    The order of latents has a meaning here. Each group is decoded once and added to those before.
    """

    name: Literal["matryoshka_batch_topk"] = "matryoshka_batch_topk"  # type: ignore[assignment]
    sparse: ClassVar[bool] = False  # each prefix would want a pattern of its own
    groups: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        sizes = [0, *self.sizes]
        if any(smaller >= larger for smaller, larger in pairwise(sizes)):
            raise ValueError(
                f"groups {list(self.groups)} of d_sae = {self.d_sae} are the sizes {sizes[1:]}: not nested"
            )
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Latents in each prefix, from the smallest to all of them."""
        named = [math.ceil(group * self.d_sae) if group <= 1 else int(group) for group in self.groups]
        return tuple(named) if named[-1:] == [self.d_sae] else (*named, self.d_sae)

    def reconstructions(self, params: Params, pre_acts: Tensor, acts: Tensor) -> tuple[Tensor, ...]:
        """All (batch, d_in), by growing prefixes."""
        W_dec, b_dec = params["W_dec"].to(acts.dtype), params["b_dec"]
        parts = [(acts[:, low:high] @ W_dec[low:high]).to(b_dec.dtype) for low, high in pairwise((0, *self.sizes))]
        return tuple(accumulate(parts, initial=b_dec))[1:]
