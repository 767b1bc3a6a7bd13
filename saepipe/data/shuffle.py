"""Permutations that are a pure function of a key."""

from __future__ import annotations

import numpy as np
import torch


def permutation(size: int, *key: int) -> torch.Tensor:
    """A permutation of range(size) that depends on `key` alone; int64 (size,)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    return torch.randperm(size, generator=generator)
