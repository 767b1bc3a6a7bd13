"""Nested dictionaries: the first latents must reconstruct x alone (Bussmann et al. 2025, arXiv 2503.17547)."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import ClassVar, Literal, Self

from pydantic import model_validator
from torch import Tensor

from saepipe.train.kernels import autograd
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Params
from saepipe.train.sae.batch_topk import BatchTopK


class MatryoshkaBatchTopK(BatchTopK):
    """A BatchTopK of which each prefix of m latents, for m in `groups`, also reconstructs x:

        loss = sum over m of E_b |x - acts[:m] W_dec[:m] - b_dec|^2

    `groups` are sizes, or fractions of d_sae if at most 1 (rounded up); the last prefix is always all of d_sae.
    A general latent gains nothing from leaving a part to a later, specific latent, because that part must also be
    reconstructed without the later one. The order of latents matters. Each group is decoded once and added to the sum.
    """

    name: Literal["matryoshka_batch_topk"] = "matryoshka_batch_topk"  # type: ignore[assignment]
    dense_arrays: ClassVar[float] = 6
    groups: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1)

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        sizes = [0, *self.sizes]
        if any(smaller >= larger for smaller, larger in pairwise(sizes)):
            raise ValueError(
                f"groups {list(self.groups)} of d_sae = {self.d_sae} give the sizes {sizes[1:]}, which are not nested"
            )
        return self

    @property
    def sizes(self) -> tuple[int, ...]:
        """Number of latents in each prefix, from the smallest to d_sae."""
        sizes = [math.ceil(group * self.d_sae) if group <= 1 else int(group) for group in self.groups]
        return tuple(sizes) if sizes[-1:] == [self.d_sae] else (*sizes, self.d_sae)

    @property
    def num_reconstructions(self) -> int:
        return len(self.sizes)

    def part(self, latents: range) -> Self:
        """Returns the architecture of some latents, with as many of each prefix as are among them, which may be none.

        Groups are fractions here; half a latent less makes them exact, since they are rounded up.
        """
        sizes = [min(max(size - latents.start, 0), len(latents)) for size in self.sizes]
        groups = tuple(max(size - 0.5, 0) / len(latents) for size in sizes)
        return self.model_copy(update={"d_sae": len(latents), "groups": groups})

    def reconstructions(self, params: Params, pre_acts: Tensor, acts: Tensor) -> tuple[Tensor, ...]:
        """Returns the reconstruction (batch, d_in) of each prefix, smallest first."""
        W_dec, b_dec = params["W_dec"].to(acts.dtype), params["b_dec"]
        parts = [(acts[:, low:high] @ W_dec[low:high]).to(b_dec.dtype) for low, high in pairwise((0, *self.sizes))]
        return tuple(accumulate(parts, initial=b_dec))[1:]

    def entry_reconstructions(
        self, params: Params, pattern: Pattern, pre_acts: Tensor, acts: Tensor
    ) -> tuple[Tensor, ...]:
        """Decodes each entry once, in the part between two prefixes that it belongs to; all parts in one product."""
        parts, entries = pattern.in_parts(self.sizes[:-1])
        W_dec, num_tokens = params["W_dec"], pattern.num_rows
        decoded = autograd.decode(parts, acts.index_select(0, entries), W_dec).view(-1, num_tokens, W_dec.shape[1])
        return tuple(accumulate(decoded, initial=params["b_dec"]))[1:]
