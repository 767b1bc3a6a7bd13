"""Straight-through gradient estimator, for activations that have no slope."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from saepipe.train.kernels.autograd import column_sums
from saepipe.train.kernels.pattern import Pattern, num_true

DENSE_ABOVE = 0.1
"""Share of all entries above which one whole product is assumed to cost less than the entries one by one: roughly where
a whole step stops gaining from being sparse (bench/density.py)."""


@dataclass(frozen=True)
class StraightThrough:
    """Estimator whose mask * carrier is added to the activations: it is 0, and carries the estimated slope."""

    mask: Tensor  # (batch, d_sae) bool: within bandwidth / 2 of their latent's threshold
    carrier: Tensor  # (d_sae,) zeros, with the estimated slope as their gradient
    bandwidth: float
    padded_to: int | None = None  # entries of `pattern`, with padding; 0: too many; None: their number is read

    @cached_property
    def pattern(self) -> Pattern | None:
        """Entries of `mask`; None if there are too many, as early in a run."""
        if self.padded_to is not None:
            return Pattern.padded_to(self.padded_to, self.mask) if self.padded_to else None
        return None if num_true(self.mask) > DENSE_ABOVE * self.mask.numel() else Pattern.of_mask(self.mask)

    def at(self, pattern: Pattern) -> Tensor:
        """Returns what it adds at each entry of a pattern, (num_entries,)."""
        return pattern.values_of(self.mask) * self.carrier[pattern.columns]

    @cached_property
    def count(self) -> Tensor:
        """Number of entries of `mask` per latent, (d_sae,) float32."""
        return self.mask.float().sum(0) if self.pattern is None else column_sums(self.pattern, self.pattern.ones())
