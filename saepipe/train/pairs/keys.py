"""A set of pairs of latents as numbers: the pair i < j is the key i d_sae + j, and d_sae^2 is no pair.

Sets keep their size from step to step, so that runs can be stacked; places that are not needed hold no pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """What a vector of keys stands for."""

    i: Tensor  # (num_pairs,) int64; 0 where there is no pair
    j: Tensor  # (num_pairs,) int64; 0 where there is no pair
    real: Tensor  # (num_pairs,) bool


def no_pair(d_sae: int) -> int:
    """The key that sorts behind those of all pairs."""
    return d_sae * d_sae


def no_pairs(num_pairs: int, d_sae: int) -> Tensor:
    """An empty set with `num_pairs` places."""
    return torch.full((num_pairs,), no_pair(d_sae))


def keys_of(i: Tensor, j: Tensor, d_sae: int) -> Tensor:
    """The key of each pair, in whichever order its ends are given; a latent with itself is no pair."""
    keys = torch.minimum(i, j) * d_sae + torch.maximum(i, j)
    return keys.masked_fill(i == j, no_pair(d_sae))


def pairs_at(keys: Tensor, d_sae: int) -> Pairs:
    """The latents that keys (num_pairs,) name."""
    real = keys < no_pair(d_sae)
    named = keys.where(real, 0)
    return Pairs(named // d_sae, named % d_sae, real)


def each_once(keys: Tensor, d_sae: int) -> Tensor:
    """Keys (num_pairs,) in ascending order, repeated ones replaced by no pair."""
    keys = keys.sort().values
    first = torch.cat([torch.ones_like(keys[:1], dtype=torch.bool), keys[1:] != keys[:-1]])
    return keys.where(first, no_pair(d_sae)).sort().values


def find(keys: Tensor, among: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """Where each of `keys` stands in `among`, which ascends, and whether it is there; no pair is nowhere."""
    position = torch.searchsorted(among, keys).clamp_max(len(among) - 1)
    return position, (among[position] == keys) & (keys < no_pair(d_sae))


def overlap(new: Tensor, old: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """Of two sets in ascending order: their Jaccard index, and the share of the old that is in the new; () each.

    Both are 0 where the sets they divide by are empty.
    """
    shared = find(new, old, d_sae)[1].sum()
    num_new, num_old = (new < no_pair(d_sae)).sum(), (old < no_pair(d_sae)).sum()
    return shared / (num_new + num_old - shared).clamp_min(1), shared / num_old.clamp_min(1)
