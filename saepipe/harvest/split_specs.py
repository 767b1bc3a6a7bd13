"""The two splits of a cache: training rows, shuffled within pools, and held-out positions in order."""

from __future__ import annotations

import numpy as np

from saepipe.data.batches.shuffle import permutation
from saepipe.data.cache.layout import Split
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.pools import SplitSpec


def pool_rows(config: HarvestConfig) -> dict[Split, int]:
    """Returns the rows of a full pool, by split."""
    return {"train": config.pool_rows, "heldout": config.shard_rows}


def train_split(config: HarvestConfig) -> SplitSpec:
    """Returns the training rows, each pool shuffled by a permutation of its own."""

    def order(num_rows: int, pool: int) -> np.ndarray:
        return permutation(num_rows, config.seed, pool).numpy()

    return SplitSpec("train", config.pool_rows, config.num_tokens, order)


def heldout_split(config: HarvestConfig, num_windows: int) -> SplitSpec:
    """Returns the rows of all positions of the held-out windows, in order."""
    num_rows = num_windows * config.context_size
    return SplitSpec("heldout", config.shard_rows, num_rows, lambda num_rows, _: np.arange(num_rows))
