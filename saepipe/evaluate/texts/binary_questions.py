"""The texts that a binary question is asked of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Examples:
    """Some texts, in the order in which a probe sees them, and whether each is positive."""

    rows: Tensor
    """(num_examples,) int64"""
    positive: Tensor
    """(num_examples,) bool"""

    def signs(self, num_texts: int) -> Tensor:
        """(num_texts,) int8"""
        signs = torch.zeros(num_texts, dtype=torch.int8)
        signs[self.rows] = torch.where(self.positive, 1, -1).to(torch.int8)
        return signs

    @classmethod
    def shuffled(cls, positive: Tensor, negative: Tensor, generator: torch.Generator) -> Examples:
        """Equal numbers of both kinds of rows, int64 each; draws as the reference does: the negatives, the order."""
        negative = negative[torch.randperm(len(negative), generator=generator)[: len(positive)]]
        positive = positive[: len(negative)]
        order = torch.randperm(2 * len(positive), generator=generator)
        return cls(torch.cat([positive, negative])[order], order < len(positive))


def one_against_rest(labels: Tensor, label: int, generator: torch.Generator) -> Examples:
    """All rows of a class, and as many of the others, evenly; draws in the reference's order.

    Args:
        labels: (num_texts,) int64 class numbers.
        label: the class.
        generator: a CPU generator.
    """
    positive = (labels == label).nonzero()[:, 0]
    others = [(labels == other).nonzero()[:, 0] for other in sorted(set(labels.tolist())) if other != label]
    share = -(-len(positive) // len(others))
    drawn = [rows[torch.randperm(len(rows), generator=generator)[:share]] for rows in others]
    return Examples.shuffled(positive, torch.cat(drawn), generator)
