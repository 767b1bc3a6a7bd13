"""Bounds of the pre-activations of some tokens, rounded to bfloat16, and the entries that reach a floor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.screening import free_to_read

ULP = 2.0**-7
"""Greatest relative step between neighbouring bfloat16 numbers; rounding moves one by at most half of it."""

OVERFLOW = 1e38
"""Products of a token and a direction whose norms multiply to less have no sum that overflows."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of the pre-activations of some tokens."""

    upper: Tensor  # (num_tokens, d_sae) bfloat16
    spread: Tensor  # (num_tokens, 1): how far below these the pre-activations can be
    sizes: Tensor  # (num_tokens,): what no sum of a pre-activation exceeds

    def of(self, pattern: Pattern) -> tuple[Tensor, Tensor]:
        """Returns upper and lower bounds of some entries, (num_entries,) float32, with room for their rounding."""
        upper = pattern.values_of(self.upper).float()
        rounding, spread = ULP * upper.abs(), self.spread.flatten().index_select(0, pattern.rows)
        return upper + rounding, upper - rounding - spread

    def reaching(self, floor: Tensor) -> Tensor:
        """Marks the upper bounds (num_tokens, d_sae) that are not below a floor, and NaN, from sums that overflow."""
        floor = floor - ULP * floor.abs()  # what rounding the bound took
        if not (free_to_read(self.upper.device) and bool((self.sizes < OVERFLOW).all() and (floor >= 0).all())):
            return (self.upper < floor).logical_not_()
        # Without NaN, positive numbers are ordered like their bits, which are compared several times as fast. What they
        # are compared with is cut off after 16 bits, so it is not above the floor.
        bits = (floor.view(torch.int32) >> 16).to(torch.int16)
        return torch.from_numpy(self.upper.view(torch.int16).numpy() >= bits.numpy())
