"""Balanced examples of binary questions about texts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BinaryExamples:
    """Texts in the order in which a probe sees them, each positive or negative."""

    rows: Tensor
    """(num_examples,) int64: indices of the texts"""
    positive: Tensor
    """(num_examples,) bool"""

    def signs(self, num_texts: int) -> Tensor:
        """Returns (num_texts,) int8: 1 for positive examples, -1 for negative ones, 0 for all other texts."""
        signs = torch.zeros(num_texts, dtype=torch.int8)
        signs[self.rows] = torch.where(self.positive, 1, -1).to(torch.int8)
        return signs

    @classmethod
    def balanced(cls, positive: Tensor, negative: Tensor, generator: torch.Generator) -> BinaryExamples:
        """Samples equally many rows (int64) of both kinds; as in the reference, first the negatives, then the order."""
        negative = negative[torch.randperm(len(negative), generator=generator)[: len(positive)]]
        positive = positive[: len(negative)]
        order = torch.randperm(2 * len(positive), generator=generator)
        return cls(torch.cat([positive, negative])[order], order < len(positive))


def one_vs_rest(labels: Tensor, label: int, generator: torch.Generator) -> BinaryExamples:
    """Returns all rows of a class and as many others, sampled evenly over the other classes in the reference's order.

    Args:
        labels: (num_texts,) int64 class numbers.
        label: number of the positive class.
        generator: a CPU generator.
    """
    positive = (labels == label).nonzero()[:, 0]
    negatives = [(labels == other).nonzero()[:, 0] for other in sorted(set(labels.tolist())) if other != label]
    share = -(-len(positive) // len(negatives))
    sampled = [rows[torch.randperm(len(rows), generator=generator)[:share]] for rows in negatives]
    return BinaryExamples.balanced(positive, torch.cat(sampled), generator)
