"""A rolling cache of synthetic rows, whose pools a test makes when it likes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from helpers.made_caches import structured_rows, write_cache
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.codecs import Profile
from saepipe.data.rolling.open_pools import OpenPools
from saepipe.data.rolling.rolling_cache import Harvesting, RollingCache
from saepipe.data.rolling.rolling_folder import RollingFolder

HOOKS = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"
POOL_ROWS, NUM_ROWS, CHUNK_ROWS, D_IN = 1024, 3700, 128, 24
"""Three full pools, of which the first is the head, and a short one."""


def begun_folder(path: Path, profile: Profile = "lossless") -> RollingFolder:
    """Returns a folder with a finished head, and no pool behind it."""
    folder = RollingFolder(path)
    make_pool(folder, 0, profile=profile)
    return folder


def make_pool(folder: RollingFolder, number: int, num_rows: int | None = None, profile: Profile = "lossless") -> None:
    """Makes a pool, of as many rows as it should have; number 0 is the head."""
    size = min(POOL_ROWS, NUM_ROWS - number * POOL_ROWS) if num_rows is None else num_rows
    rows = {hook: structured_rows(size, D_IN, 10 * number + layer) for layer, hook in enumerate(HOOKS)}
    place = folder.pool(number) if number else folder.head
    write_cache(place, rows, shard_rows=512, chunk_rows=CHUNK_ROWS, profile=profile)


def stored_rows(folder: RollingFolder, number: int, hook: str) -> np.ndarray:
    """Returns the rows of a pool as its own cache has them, bits (num_rows, d_in)."""
    rows = Cache.open(folder.pool(number) if number else folder.head).rows(hook)
    return rows.read(0, rows.num_rows)


@contextmanager
def nothing_more() -> Iterator[object]:
    """A harvest that has made all its pools."""
    yield lambda: False


def rolling_cache(folder: RollingFolder, harvesting: Harvesting = nothing_more) -> RollingCache:
    return RollingCache.of(Cache.open(folder.head), OpenPools(folder, POOL_ROWS, NUM_ROWS), harvesting)
