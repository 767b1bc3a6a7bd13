"""Unit directions with little overlap: more features than dimensions, as in superposition."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.errors import ConfigError


def repelled(directions: Tensor, limit: float, *, max_steps: int = 4000, lr: float = 0.01) -> Tensor:
    """Moves unit rows apart until no two have |cosine| above `limit`.

    Runs Adam on the sum over pairs of relu(|c_ij| - 0.98 limit)^2, normalising rows after each step; deterministic.

    Args:
        directions: (num_features, d_in) starting point, rows of unit norm.
        limit: the largest |cosine| allowed. No set can go below Welch's bound sqrt((N - d) / (d (N - 1))).

    Raises:
        ConfigError: if the limit is not reached.
    """
    rows = directions.clone().requires_grad_()
    off_diagonal = ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    adam = torch.optim.Adam([rows], lr=lr)
    for _ in range(max_steps):
        cosines = (rows @ rows.T).abs() * off_diagonal
        if cosines.max() <= limit:
            return rows.detach()
        (gradient,) = torch.autograd.grad((cosines - 0.98 * limit).relu().square().sum(), rows)
        rows.grad = gradient
        adam.step()
        with torch.no_grad():
            rows.copy_(normalize(rows, dim=1))
    raise ConfigError(
        f"{len(rows)} directions in {rows.shape[1]} dimensions do not reach |cosine| <= {limit}",
        hint="raise max_cosine or d_in, or use fewer features",
    )


def orthogonalized(directions: Tensor, *, num_steps: int, lr: float) -> Tensor:
    """Turns unit rows (num_features, d_in) away from each other by steps of Adam, and normalises them at the end.

    Adam minimises sum_(i != j) (d_i . d_j)^2 + num_features * sum_i (|d_i|^2 - 1)^2, as SAELens does. The gradient,
    4 (D D^T D - |d_i|^2 d_i) + 4 num_features (|d_i|^2 - 1) d_i, needs no N x N array: D^T D is (d_in, d_in).
    """
    rows = directions.clone()
    adam = torch.optim.Adam([rows], lr=lr)
    for _ in range(num_steps):
        squared = rows.square().sum(1, keepdim=True)
        rows.grad = 4 * (rows @ (rows.T @ rows) + (len(rows) * (squared - 1) - squared) * rows)
        adam.step()
    return normalize(rows, dim=1)


def tilted(own: Tensor, toward: Tensor, cosine: float) -> Tensor:
    """cosine * u + sqrt(1 - cosine^2) * v: u is `toward`, unit rows, and v the unit part of `own` orthogonal to u.

    Both are (num, d_in). For a cosine of 0, `own` is returned unchanged, with its slight overlap.
    """
    if cosine == 0:
        return own
    orthogonal = normalize(own - (own * toward).sum(1, keepdim=True) * toward, dim=1)
    return cosine * toward + (1 - cosine**2) ** 0.5 * orthogonal
