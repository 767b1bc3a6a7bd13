"""Hedging, the mixing of features in an SAE too narrow to separate them, measured by widening it (arXiv 2505.11756)."""

from __future__ import annotations

import torch
from torch import Tensor


def hedging_degree(before: Tensor, after: Tensor, *, num_baselines: int = 50) -> float:
    """Returns how much of what narrow latents had mixed in moves to added latents (arXiv 2505.11756, as in its code).

    h = mean_i |P (after_i - before_i)| / mean_i |before_i| over the old latents i, P the projection onto the span of
    the added latents' rows; h_0 is the same for as many random directions. The degree is (h - h_0) / (1 - h_0), at
    least 0: the movement towards the added latents in excess of chance.

    Args:
        before: (d_sae, d_in) decoder of the narrow SAE.
        after: (d_sae + num_added, d_in) decoder after more training with added latents; the old rows come first.
        num_baselines: random samples that h_0 averages over.
    """
    change, added = after[: len(before)] - before, after[len(before) :]
    length = torch.linalg.vector_norm(before, dim=1).mean()
    rng = torch.Generator().manual_seed(0)
    random = [torch.randn(added.shape, generator=rng).to(added) for _ in range(num_baselines)]
    h, *h_0 = (float(_projected(change, rows) / length) for rows in (added, *random))
    base = sum(h_0) / num_baselines
    return max(0.0, (h - base) / (1 - base)) if base < 1 else 0.0


def _projected(change: Tensor, rows: Tensor) -> Tensor:
    """Returns the mean length of the projections of `change` (num, d_in) onto the span of `rows`, ()."""
    _, values, basis = torch.linalg.svd(rows, full_matrices=False)
    basis = basis[values > 1e-6 * values[0]]
    return torch.linalg.vector_norm(change @ basis.T, dim=1).mean()
