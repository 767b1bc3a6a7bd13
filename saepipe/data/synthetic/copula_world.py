"""The world of SynthSAEBench: features that fire by a Gaussian copula, gated by their parents, with contests."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from saepipe.data.synthetic.truth import moved


@dataclass(frozen=True)
class CopulaWorld:
    """A generative model of activations: x = bias + the sum of magnitude * direction over features that are on.

    It is SAELens' `SyntheticModel` (Chanin & Garriga-Alonso 2026, arXiv 2602.14687). Every feature has a score, a
    standard normal: loadings @ factors + sqrt(1 - |loadings|^2) * normal, with factors (rank,) per token. It fires
    where the score exceeds its threshold, with magnitude max(0, mean + std * normal). From the roots down, a feature
    that fired is on if its parent is on and it wins in its group, of which a random feature that fired stays.
    """

    directions: Tensor  # (num_features, d_in) float32, rows of unit norm
    bias: Tensor  # (d_in,)
    parent: Tensor  # (num_features,) int64: index of the parent, or -1
    group: Tensor  # (num_features,) int64: siblings with the same number exclude each other; -1 excludes none
    scaled: Tensor  # (num_features,) bool: magnitudes are multiplied by the parent's magnitude over its mean
    threshold: Tensor  # (num_features,) float32
    loadings: Tensor  # (num_features, rank) rows of norm below 1; rank 0: independent features
    mean: Tensor  # (num_features,) of the magnitudes
    std: Tensor  # (num_features,)

    @property
    def num_features(self) -> int:
        return len(self.directions)

    @property
    def d_in(self) -> int:
        return self.directions.shape[1]

    @cached_property
    def own_share(self) -> Tensor:
        """(num_features,) weight of a feature's own normal in its score."""
        return (1 - self.loadings.square().sum(1)).clamp_min(0).sqrt()

    @cached_property
    def roots(self) -> Tensor:
        """(num_roots,) features without a parent, group by group."""
        roots = (self.parent < 0).nonzero().squeeze(1)
        return roots[self.group[roots].argsort(stable=True)]

    @cached_property
    def children(self) -> Tensor:
        """(num_features - num_roots,) the other features, parent by parent, and among siblings group by group."""
        children = (self.parent >= 0).nonzero().squeeze(1)
        by_group = children[self.group[children].argsort(stable=True)]
        return by_group[self.parent[by_group].argsort(stable=True)]

    @cached_property
    def num_children(self) -> Tensor:
        """(num_features,) int64."""
        return torch.bincount(self.parent[self.children], minlength=self.num_features)

    @cached_property
    def first_child(self) -> Tensor:
        """(num_features,) position in `children` of a feature's first child."""
        return self.num_children.cumsum(0) - self.num_children

    def to(self, device: torch.device) -> Self:
        return moved(self, device)
