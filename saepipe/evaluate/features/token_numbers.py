"""Random numbers of tokens, which depend on the token and the seed alone."""

from __future__ import annotations

import numpy as np


def uniform(flat_index: np.ndarray, seed: int) -> np.ndarray:
    """Hashes each int64, with the seed, to a number in [0, 1) (SplitMix64; Steele et al., 2014)."""
    offset = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    with np.errstate(over="ignore"):
        z = flat_index.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + offset
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    numbers: np.ndarray = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return numbers
