"""What is really in the activations: directions, who implies and who excludes whom, how often and how strongly."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Truth:
    """A generative model of activations: x = bias + sum over features that are on of magnitude * direction + noise.

    A feature can be on only where its parent is. Features of one group exclude each other; a group's features stand
    side by side, have one parent (or none), and their rates sum to at most 1. Parents stand before their children.
    """

    directions: Tensor  # (num_features, d_in) float32, rows of unit norm
    parent: Tensor  # (num_features,) int64: the index of the parent; -1 for none
    group: Tensor  # (num_features,) int64, never falling: 0, 1, ..., num_groups - 1
    rates: Tensor  # (num_features,) float64: P(on | parent on)
    mean: Tensor  # (num_features,) of the magnitude where on
    std: Tensor  # (num_features,)
    floor: float  # the least magnitude
    loadings: Tensor  # (num_groups, rank) of the Gaussian copula; rows of norm below 1; rank 0: independent groups
    bias: Tensor  # (d_in,)
    noise: float  # standard deviation, for each of the d_in
    scaled_by_parent: bool  # magnitudes are multiplied by their parent's, relative to its mean

    @property
    def num_features(self) -> int:
        return len(self.directions)

    @property
    def d_in(self) -> int:
        return self.directions.shape[1]

    @cached_property
    def levels(self) -> tuple[Tensor, ...]:
        """Features by depth: those without a parent, their children, ..."""
        depth = torch.zeros_like(self.parent)
        found = [(self.parent < 0).nonzero().squeeze(1)]
        while len(found[-1]):
            below = torch.isin(self.parent, found[-1])
            depth[below] = len(found)
            found.append(below.nonzero().squeeze(1))
        return tuple(found[:-1])

    @cached_property
    def frequencies(self) -> Tensor:
        """(num_features,) float64: P(on); exact where the copula does not tie children to their parents."""
        frequencies = self.rates.clone()
        for level in self.levels[1:]:
            frequencies[level] *= frequencies[self.parent[level]]
        return frequencies

    @property
    def l0(self) -> float:
        """Features on in a token, on average."""
        return float(self.frequencies.sum())

    @cached_property
    def parents(self) -> Tensor:
        """(num_parents,) features that have children."""
        return torch.unique(self.parent[self.parent >= 0])

    def children(self, parent: int) -> Tensor:
        return (self.parent == parent).nonzero().squeeze(1)

    def to(self, device: torch.device) -> Self:
        moved: dict[str, Any] = {
            field.name: getattr(self, field.name).to(device) for field in fields(self) if field.type == "Tensor"
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Tokens:
    """A batch of activations and what made them."""

    x: Tensor  # (num_tokens, d_in) float32
    magnitudes: Tensor  # (num_tokens, num_features) float32; 0 where the feature is off


def draw(truth: Truth, seed: int, number: int, num_tokens: int) -> Tokens:
    """Batch `number` of the endless stream called `seed`: a pure function of its arguments, for one kind of device.

    Each group draws one u = Phi(z), z normal with the copula's correlation, and each of its features is on where u
    falls into the feature's own interval; the intervals fill [0, 1] from above, so groups with alike loadings are on
    together.
    """
    device = truth.directions.device
    rng = torch.Generator(device).manual_seed(key(seed, number))
    num_groups, rank = truth.loadings.shape
    factors = torch.randn(num_tokens, rank, generator=rng, device=device)
    own = torch.randn(num_tokens, num_groups, generator=rng, device=device)
    z = factors @ truth.loadings.T + own * (1 - truth.loadings.square().sum(1)).sqrt()
    on = _chosen(truth, torch.special.ndtr(z))
    magnitudes = _magnitudes(truth, on, rng)
    noise = truth.noise * torch.randn(num_tokens, truth.d_in, generator=rng, device=device)
    return Tokens(magnitudes @ truth.directions + truth.bias + noise, magnitudes)


def _chosen(truth: Truth, u: Tensor) -> Tensor:
    """u (num_tokens, num_groups) in [0, 1] -> (num_tokens, num_features) bool."""
    so_far = truth.rates.cumsum(0)
    before = so_far - truth.rates
    first = torch.searchsorted(truth.group, torch.arange(u.shape[1], device=u.device))
    high = (1 - (before - before[first][truth.group])).float()
    low = (1 - (so_far - before[first][truth.group])).float()
    high[first] = torch.inf
    mine = u[:, truth.group]
    on = (mine >= low) & (mine < high)
    for level in truth.levels[1:]:
        on[:, level] &= on[:, truth.parent[level]]
    return on


def _magnitudes(truth: Truth, on: Tensor, rng: torch.Generator) -> Tensor:
    """(num_tokens, num_features): mean + std * normal, at least `floor`, where on."""
    features = on.nonzero()[:, 1]
    drawn = torch.randn(len(features), generator=rng, device=on.device)
    magnitudes = torch.zeros(on.shape, device=on.device)
    magnitudes[on] = (truth.mean[features] + truth.std[features] * drawn).clamp_min(truth.floor)
    if truth.scaled_by_parent:
        for level in truth.levels[1:]:
            parent = truth.parent[level]
            magnitudes[:, level] *= magnitudes[:, parent] / truth.mean[parent]
    return magnitudes


def key(*numbers: int) -> int:
    """A seed for torch that depends on every one of `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
