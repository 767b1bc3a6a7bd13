"""Requests that write a cache into a bucket, for a plan."""

from __future__ import annotations

from saepipe.data.cache.layout import Layout
from saepipe.data.remote.mirrored_files import PART_BYTES

_PER_HOOK, _PER_CACHE = 15, 30
"""Small objects: zarr.json of arrays and groups, statistics; contexts, attributes, manifest, seal and claim."""

_PER_POOL, _PER_TEXT = 1, 2
"""The pool's list; with several ranks, its text, which is written and removed."""


def num_writes(layout: Layout, train_shards: int, heldout_shards: int, pools: int, ratio: float, ranks: int = 1) -> int:
    """Returns the number of requests that write.

    Args:
        layout: arrays of the cache.
        train_shards: number of shards of a training array.
        heldout_shards: of a held-out array.
        pools: number of pools.
        ratio: at which activations are compressed.
        ranks: number of ranks.
    """
    of_train = sum(
        _requests(array.shard_rows * array.row_bytes / ratio) for array in layout.row_arrays("train").values()
    )
    of_train += len(layout.hooks) * (2 if layout.profile == "int8" else 1)  # moments, and noise
    of_heldout = sum(
        _requests(array.shard_rows * array.row_bytes / ratio) for array in layout.row_arrays("heldout").values()
    )
    small = _PER_CACHE + _PER_HOOK * len(layout.hooks) + (_PER_POOL + _PER_TEXT * (ranks > 1)) * pools
    return train_shards * of_train + heldout_shards * of_heldout + small


def _requests(num_bytes: float) -> int:
    """Requests of one object: a large one is begun, sent in parts, and completed."""
    return 1 if num_bytes <= PART_BYTES else 2 + int(-(-num_bytes // PART_BYTES))
