"""Sets of pairs of latents as integer keys: the pair i < j has the key i d_sae + j; the key d_sae^2 means no pair.

Sets keep their size from step to step, so that runs can be stacked; unused slots hold the key for no pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """Pairs of latents, unpacked from a vector of keys."""

    i: Tensor  # (num_pairs,) int64; 0 in an unused slot
    j: Tensor  # (num_pairs,) int64; 0 in an unused slot
    real: Tensor  # (num_pairs,) bool: the slot holds a pair


def no_pair(d_sae: int) -> int:
    """Returns the key for no pair, which sorts after the keys of all pairs."""
    return d_sae * d_sae


def empty_keys(num_pairs: int, d_sae: int) -> Tensor:
    """Returns an empty set with `num_pairs` slots."""
    return torch.full((num_pairs,), no_pair(d_sae))


def keys_of(i: Tensor, j: Tensor, d_sae: int) -> Tensor:
    """Returns the key of each pair, whichever end comes first; a latent with itself gets the key for no pair."""
    keys = torch.minimum(i, j) * d_sae + torch.maximum(i, j)
    return keys.masked_fill(i == j, no_pair(d_sae))


def pairs_at(keys: Tensor, d_sae: int) -> Pairs:
    """Returns the latents of keys (num_pairs,)."""
    real = keys < no_pair(d_sae)
    valid = keys.where(real, 0)
    return Pairs(valid // d_sae, valid % d_sae, real)


def unique_keys(keys: Tensor, d_sae: int) -> Tensor:
    """Returns keys (num_pairs,) in ascending order, with duplicates replaced by the key for no pair."""
    keys = keys.sort().values
    first = torch.cat([torch.ones_like(keys[:1], dtype=torch.bool), keys[1:] != keys[:-1]])
    return keys.where(first, no_pair(d_sae)).sort().values


def find(keys: Tensor, sorted_keys: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """Returns each key's position in `sorted_keys` (ascending), and whether it is there; no pair never is."""
    position = torch.searchsorted(sorted_keys, keys).clamp_max(len(sorted_keys) - 1)
    return position, (sorted_keys[position] == keys) & (keys < no_pair(d_sae))


def overlap(new: Tensor, old: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """Returns the Jaccard index of two ascending sets, and the share of the old set that is in the new; () each.

    Each is 0 if the set that it divides by is empty.
    """
    shared = find(new, old, d_sae)[1].sum()
    num_new, num_old = (new < no_pair(d_sae)).sum(), (old < no_pair(d_sae)).sum()
    return shared / (num_new + num_old - shared).clamp_min(1), shared / num_old.clamp_min(1)
