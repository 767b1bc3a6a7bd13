"""Mean, covariance and principal axes of activations, and random maps and directions that keep to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


class Moments:
    """Running sums of rows (num_tokens, d), in float64."""

    def __init__(self) -> None:
        self.num_rows, self._sum, self._products = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: Tensor) -> None:
        rows = rows.double()
        self.num_rows += len(rows)
        self._sum = rows.sum(0) + self._sum.to(rows)
        self._products = rows.T @ rows + self._products.to(rows)

    def principal_axes(self) -> PrincipalAxes:
        """Needs at least one row."""
        mean = self._sum / self.num_rows
        covariance = self._products / self.num_rows - mean.outer(mean)
        variances, axes = torch.linalg.eigh(covariance)
        return PrincipalAxes(mean.float(), axes.T.float(), variances.clamp_min(0).float())


@dataclass(frozen=True)
class PrincipalAxes:
    """Principal axes of activations around their mean."""

    mean: Tensor
    """(d,)"""
    axes: Tensor
    """(d, d): unit rows"""
    variances: Tensor
    """(d,): variance along each axis"""

    def random_signs(self, generator: torch.Generator) -> Tensor:
        """Returns +1 or -1 for each axis, (d,)."""
        return (2.0 * torch.randint(2, (len(self.mean),), generator=generator) - 1).to(self.mean)

    def flip_directions(self, directions: Tensor, signs: Tensor) -> Tensor:
        """Flips the components of directions (num, d) along the axes whose sign is -1."""
        return (directions @ self.axes.T * signs) @ self.axes

    def flip_rows(self, rows: Tensor, signs: Tensor) -> Tensor:
        """Flips activations (num_tokens, d) about their mean: mean and covariance stay."""
        return self.mean + self.flip_directions(rows - self.mean, signs)

    def random_directions(self, num: int, generator: torch.Generator) -> Tensor:
        """Returns unit rows (num, d) whose directions are those of a normal distribution of the same covariance."""
        standard = torch.randn(num, len(self.mean), generator=generator).to(self.mean)
        return normalize((standard * self.variances.sqrt()) @ self.axes, dim=1)

    def deviations(self, directions: Tensor) -> Tensor:
        """Returns the standard deviation of the activations along each unit row (num, d): (num,)."""
        return ((directions @ self.axes.T).square() @ self.variances).sqrt()
