"""The features behind synthetic activations: directions, implications, exclusions, frequencies and magnitudes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

AnyWorld = TypeVar("AnyWorld", bound="DataclassInstance")


@dataclass(frozen=True)
class Truth:
    """A generative model of activations: x = bias + noise + the sum of magnitude * direction over features that are on.

    A feature can be on only if its parent is. Features of one group exclude each other; they are contiguous, share one
    parent (or have none), and their rates sum to at most 1. Parents come before their children.
    """

    directions: Tensor  # (num_features, d_in) float32, rows of unit norm
    parent: Tensor  # (num_features,) int64: index of the parent, or -1
    group: Tensor  # (num_features,) int64, non-decreasing: 0, 1, ..., num_groups - 1
    rates: Tensor  # (num_features,) float64: P(on | parent on)
    mean: Tensor  # (num_features,) mean magnitude when on
    std: Tensor  # (num_features,)
    floor: float  # smallest magnitude
    loadings: Tensor  # (num_groups, rank) of the Gaussian copula; rows of norm below 1; rank 0: independent groups
    bias: Tensor  # (d_in,)
    noise: float  # standard deviation in each of the d_in dimensions

    @property
    def num_features(self) -> int:
        return len(self.directions)

    @property
    def d_in(self) -> int:
        return self.directions.shape[1]

    @cached_property
    def levels(self) -> tuple[Tensor, ...]:
        """Features by depth: those without a parent, their children, ..."""
        levels = [(self.parent < 0).nonzero().squeeze(1)]
        while len(levels[-1]):
            levels.append(torch.isin(self.parent, levels[-1]).nonzero().squeeze(1))
        return tuple(levels[:-1])

    @cached_property
    def frequencies(self) -> Tensor:
        """(num_features,) float64: P(on); exact unless the copula correlates children with their parents."""
        frequencies = self.rates.clone()
        for level in self.levels[1:]:
            frequencies[level] *= frequencies[self.parent[level]]
        return frequencies

    @property
    def l0(self) -> float:
        """Mean number of features on per token."""
        return float(self.frequencies.sum())

    @cached_property
    def parents(self) -> Tensor:
        """(num_parents,) features that have children."""
        return torch.unique(self.parent[self.parent >= 0])

    def children(self, parent: int) -> Tensor:
        return (self.parent == parent).nonzero().squeeze(1)

    def to(self, device: torch.device) -> Self:
        return moved(self, device)


@dataclass(frozen=True)
class Tokens:
    """A batch of activations and the magnitudes that generated them."""

    x: Tensor  # (num_tokens, d_in) float32
    magnitudes: Tensor  # (num_tokens, num_features) float32; 0 where the feature is off


def draw(truth: Truth, seed: int, number: int, num_tokens: int) -> Tokens:
    """Samples batch `number` of the endless stream `seed`: a pure function of its arguments, for one kind of device.

    Each group draws one u = Phi(z), with z normal and correlated by the copula. A feature is on if u falls into its own
    interval; the intervals fill [0, 1] from the top, so groups with similar loadings tend to be on together.
    """
    device = truth.directions.device
    rng = torch.Generator(device).manual_seed(key(seed, number))
    num_groups, rank = truth.loadings.shape
    factors = torch.randn(num_tokens, rank, generator=rng, device=device)
    independent = torch.randn(num_tokens, num_groups, generator=rng, device=device)
    z = factors @ truth.loadings.T + independent * (1 - truth.loadings.square().sum(1)).sqrt()
    on = _active_features(truth, torch.special.ndtr(z))
    magnitudes = _magnitudes(truth, on, rng)
    noise = truth.noise * torch.randn(num_tokens, truth.d_in, generator=rng, device=device)
    return Tokens(magnitudes @ truth.directions + truth.bias + noise, magnitudes)


def _active_features(truth: Truth, u: Tensor) -> Tensor:
    """u (num_tokens, num_groups) in [0, 1] -> (num_tokens, num_features) bool."""
    total = truth.rates.cumsum(0)
    total_before = total - truth.rates
    first = torch.searchsorted(truth.group, torch.arange(u.shape[1], device=u.device))
    group_start = total_before[first][truth.group]
    high = (1 - (total_before - group_start)).float()
    low = (1 - (total - group_start)).float()
    high[first] = torch.inf
    group_u = u[:, truth.group]
    on = (group_u >= low) & (group_u < high)
    for level in truth.levels[1:]:
        on[:, level] &= on[:, truth.parent[level]]
    return on


def _magnitudes(truth: Truth, on: Tensor, rng: torch.Generator) -> Tensor:
    """(num_tokens, num_features): mean + std * normal, at least `floor`, if on; otherwise 0."""
    features = on.nonzero()[:, 1]
    normal = torch.randn(len(features), generator=rng, device=on.device)
    magnitudes = torch.zeros(on.shape, device=on.device)
    magnitudes[on] = (truth.mean[features] + truth.std[features] * normal).clamp_min(truth.floor)
    return magnitudes


def moved(world: AnyWorld, device: torch.device) -> AnyWorld:
    """Returns a dataclass whose tensors are on `device`."""
    tensors: dict[str, Any] = {
        field.name: getattr(world, field.name).to(device) for field in fields(world) if field.type == "Tensor"
    }
    return replace(world, **tensors)


def key(*numbers: int) -> int:
    """Returns a seed for torch that depends on each of `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
