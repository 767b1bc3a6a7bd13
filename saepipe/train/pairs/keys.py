"""Sets of pairs of latents as integer keys: the pair i < j has the key i d_sae + j; the key d_sae^2 means no pair.

Sets keep their size from step to step, so that runs can be stacked; unused slots hold the key for no pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from saepipe.train.kernels.constants import constant
from saepipe.train.kernels.pattern import Pattern


@dataclass(frozen=True)
class Pairs:
    """Pairs of latents i and j. What is derived is computed once, and serves every product of a step."""

    ends: Tensor  # (2, num_pairs) int64: i, then j; the last latent twice in an unused slot
    d_sae: int
    positions: Tensor | None = None  # (num_pairs,) i d_sae + j, if they are known
    ascending: bool = False  # whether i d_sae + j ascends

    @property
    def i(self) -> Tensor:
        """(num_pairs,) int64."""
        return self.ends[0]

    @property
    def j(self) -> Tensor:
        """(num_pairs,) int64."""
        return self.ends[1]

    @cached_property
    def swapped(self) -> Tensor:
        """(2, num_pairs) int64: j, then i."""
        return self.ends.flip(0)

    @cached_property
    def pattern(self) -> tuple[Pattern, Tensor | None]:
        """The entries (i, j) of a (d_sae, d_sae) array, and the pairs' order in it, (num_pairs,); None: as they are."""
        positions, order = self.positions, None
        if positions is None:
            positions = self.i * self.d_sae + self.j
        if not self.ascending:
            positions, order = positions.sort()
        return Pattern.of_positions(positions, self.d_sae, self.d_sae), order


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


def is_pair(keys: Tensor, d_sae: int) -> Tensor:
    """Returns which slots hold a pair, bool of the keys' shape."""
    return keys < no_pair(d_sae)


def pairs_at(keys: Tensor, d_sae: int, *, ascending: bool = False) -> Pairs:
    """Returns the latents of keys (num_pairs,), which may be known to be `ascending`."""
    keys = keys.clamp_max(no_pair(d_sae) - 1)
    divisors = constant((d_sae, 1), keys.dtype, keys.device).unsqueeze(1)
    return Pairs(keys // divisors % d_sae, d_sae, keys, ascending)


def unique_keys(keys: Tensor, d_sae: int) -> Tensor:
    """Returns keys (num_pairs,) in ascending order, with duplicates replaced by the key for no pair."""
    keys = keys.sort().values
    first = torch.cat([torch.ones_like(keys[:1], dtype=torch.bool), keys[1:] != keys[:-1]])
    return keys.where(first, no_pair(d_sae)).sort().values


def find(keys: Tensor, sorted_keys: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """Returns each key's position in `sorted_keys` (ascending), and whether it is there; no pair never is."""
    position = torch.searchsorted(sorted_keys, keys).clamp_max(len(sorted_keys) - 1)
    return position, (sorted_keys[position] == keys) & is_pair(keys, d_sae)


def overlap(new: Tensor, old: Tensor, d_sae: int) -> tuple[Tensor, Tensor]:
    """Returns the Jaccard index of two ascending sets, and the share of the old set that is in the new; () each.

    Each is 0 if the set that it divides by is empty.
    """
    shared = find(new, old, d_sae)[1].sum()
    num_new, num_old = is_pair(new, d_sae).sum(), is_pair(old, d_sae).sum()
    return shared / (num_new + num_old - shared).clamp_min(1), shared / num_old.clamp_min(1)
