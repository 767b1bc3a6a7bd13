"""Slopes that training estimates where an activation has none."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from saepipe.train.kernels.autograd import column_sums
from saepipe.train.kernels.pattern import Pattern

MANY = 0.1
"""Share of all entries from which one whole product is taken to cost less than theirs one by one: about where a whole
step stops gaining from being sparse (bench/density.py)."""


@dataclass(frozen=True)
class Estimate:
    """mask * carrier is added to the activations: it is 0, and carries the estimated slope."""

    mask: Tensor  # (batch, d_sae) bool: within bandwidth / 2 of their latent's threshold
    carrier: Tensor  # (d_sae,) zeros, with the estimated slope as their gradient
    bandwidth: float

    @cached_property
    def pattern(self) -> Pattern | None:
        """The entries of `mask`; None where they are many, as early in a run."""
        return None if self.mask.count_nonzero() > MANY * self.mask.numel() else Pattern.of_mask(self.mask)

    @cached_property
    def count(self) -> Tensor:
        """(d_sae,) float32: how many of the batch `mask` has."""
        return self.mask.float().sum(0) if self.pattern is None else column_sums(self.pattern, self.pattern.ones())
