"""Tokens of a copula world, sampled sparsely: children are looked at only on tokens where their parent is on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saepipe.data.synthetic.copula_world import CopulaWorld
from saepipe.data.synthetic.truth import key


@dataclass(frozen=True)
class Entries:
    """The features that are on, one entry each."""

    token: Tensor  # (num_entries,) int64
    feature: Tensor  # (num_entries,) int64
    magnitude: Tensor  # (num_entries,) float32, above 0

    def __getitem__(self, rows: Tensor | slice) -> Entries:
        return Entries(self.token[rows], self.feature[rows], self.magnitude[rows])

    def dense(self, num_tokens: int, num_features: int) -> Tensor:
        """Returns the magnitudes as (num_tokens, num_features) float32; 0 where a feature is off."""
        magnitudes = self.magnitude.new_zeros(num_tokens, num_features)
        magnitudes[self.token, self.feature] = self.magnitude
        return magnitudes


@dataclass(frozen=True)
class CopulaTokens:
    """A batch of activations and the features that generated them."""

    x: Tensor  # (num_tokens, d_in) float32
    on: Entries  # ordered by token

    def on_mask(self, num_features: int) -> Tensor:
        """Returns which features are on, (num_tokens, num_features) bool."""
        mask = torch.zeros(len(self.x), num_features, dtype=torch.bool, device=self.x.device)
        mask[self.on.token, self.on.feature] = True
        return mask

    def split(self, num_tokens: int) -> list[CopulaTokens]:
        """Returns batches of `num_tokens`, of which the last may be smaller."""
        starts = torch.arange(0, len(self.x) + num_tokens, num_tokens, device=self.x.device)
        bounds = torch.searchsorted(self.on.token, starts).tolist()
        batches = []
        for x, first, (begin, end) in zip(
            torch.split(self.x, num_tokens), starts.tolist(), pairwise(bounds), strict=False
        ):
            on = self.on[slice(begin, end)]
            batches.append(CopulaTokens(x, replace(on, token=on.token - first)))
        return batches


def draw_copula(world: CopulaWorld, seed: int, number: int, num_tokens: int) -> CopulaTokens:
    """Samples batch `number` of the endless stream `seed`: a pure function of its arguments, for one kind of device."""
    device = world.directions.device
    rng = torch.Generator(device).manual_seed(key(seed, number))
    factors = torch.randn(num_tokens, world.loadings.shape[1], generator=rng, device=device)
    levels = list(_levels(world, factors, rng))
    on = Entries(*(torch.cat([getattr(level, name) for level in levels]) for name in ("token", "feature", "magnitude")))
    on = on[on.token.argsort(stable=True)]
    starts = torch.searchsorted(on.token, torch.arange(num_tokens, device=device))
    x = embedding_bag(on.feature, world.directions, starts, mode="sum", per_sample_weights=on.magnitude)
    return CopulaTokens(x + world.bias, on)


def _levels(world: CopulaWorld, factors: Tensor, rng: torch.Generator) -> Iterator[Entries]:
    """Yields what is on of the roots, then of their children, ..."""
    level = _roots(world, factors, rng)
    yield level
    while len(level.token):
        level = _children(world, factors, level, rng)
        yield level


def _roots(world: CopulaWorld, factors: Tensor, rng: torch.Generator) -> Entries:
    roots = world.roots
    score = torch.randn(len(factors), len(roots), generator=rng, device=factors.device).mul_(world.own_share[roots])
    score.addmm_(factors, world.loadings[roots].T)
    token, column = (score > world.threshold[roots]).nonzero().unbind(1)
    feature = roots[column]
    fired = Entries(token, feature, _magnitudes(world, feature, rng))
    return fired[_stays(fired.magnitude > 0, token, world.group[feature], rng)]


def _children(world: CopulaWorld, factors: Tensor, above: Entries, rng: torch.Generator) -> Entries:
    """Samples the children of the features that are on; `above` is one level of them."""
    counts = world.num_children[above.feature]
    rows = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)  # of `above`
    place = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    feature = world.children[world.first_child[above.feature][rows] + place]
    token = above.token[rows]
    normal = torch.randn(len(feature), generator=rng, device=feature.device)
    score = (factors[token] * world.loadings[feature]).sum(1) + world.own_share[feature] * normal
    fired = (score > world.threshold[feature]).nonzero().squeeze(1)
    rows, token, feature = rows[fired], token[fired], feature[fired]
    scale = above.magnitude[rows] / world.mean[above.feature[rows]]
    magnitude = _magnitudes(world, feature, rng) * torch.where(world.scaled[feature], scale, 1.0)
    return Entries(token, feature, magnitude)[_stays(magnitude > 0, rows, world.group[feature], rng)]


def _magnitudes(world: CopulaWorld, feature: Tensor, rng: torch.Generator) -> Tensor:
    normal = torch.randn(len(feature), generator=rng, device=feature.device)
    return (world.mean[feature] + world.std[feature] * normal).relu()


def _stays(candidate: Tensor, owner: Tensor, group: Tensor, rng: torch.Generator) -> Tensor:
    """Returns the rows of the candidates that are in no group, and of one random candidate of each owner's group.

    Args:
        candidate: (num_entries,) bool.
        owner: (num_entries,) int64: the token of a root, or the parent's entry; equal ones are contiguous.
        group: (num_entries,) int64: within an owner, equal ones are contiguous.
    """
    starts = (group < 0) | (owner != owner.roll(1)) | (group != group.roll(1))
    starts[:1] = True
    contest = starts.cumsum(0) - 1
    # Doubles, so that no two lots of a run are equal; float32 would let both siblings stay now and then.
    lots = torch.rand(len(group), generator=rng, device=group.device, dtype=torch.float64)
    lots = torch.where(candidate, lots, -1.0)
    highest = torch.full_like(lots, -1.0).scatter_reduce_(0, contest, lots, "amax")
    return (candidate & (lots == highest[contest])).nonzero().squeeze(1)
