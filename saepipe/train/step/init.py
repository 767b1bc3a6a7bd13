"""Initialisation of b_dec at a centre of the activations (Bricken et al. 2023 use the geometric median)."""

from __future__ import annotations

import torch
from torch import Tensor


def center(rows: Tensor, kind: str) -> Tensor:
    """Returns the `geometric_median`, the `mean` or `zeros` of rows (num, d_in) float32: (d_in,)."""
    if kind == "geometric_median":
        return geometric_median(rows)
    return rows.mean(0) if kind == "mean" else rows.new_zeros(rows.shape[1])


def geometric_median(rows: Tensor, *, max_iterations: int = 100, tolerance: float = 1e-6) -> Tensor:
    """Returns the point with the least sum of distances to rows (num, d_in), by Weiszfeld's iteration from the mean.

    The iteration stops when a step is shorter than `tolerance` times the mean distance.
    """
    point = rows.mean(0)
    for _ in range(max_iterations):
        distances = torch.linalg.vector_norm(rows - point, dim=1).clamp_min(1e-12)
        weights = 1 / distances
        next_point = (weights @ rows) / weights.sum()
        moved = torch.linalg.vector_norm(next_point - point)
        point = next_point
        if moved <= tolerance * distances.mean():
            break
    return point
