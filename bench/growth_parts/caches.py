"""Work on caches: of AG News by the toy, and of random rows in many small shards, which stand for a large cache."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from saepipe.data.batches.shuffle import permutation
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.writer import CacheWriter, RowPool
from saepipe.data.folders import artifact
from saepipe.evaluate.features import surroundings
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.features.contexts import chunks
from saepipe.harvest.pools import SplitSpec, StoredRuns, cut_pools
from saepipe.harvest.rows import PendingRows, Rows, WindowBatch

Act = Callable[[], object]

TEXT = Path(os.environ.get("SAEPIPE_SHARED", "../shared")).resolve() / "data" / "ag_news.csv"
HOOK, D_IN, CONTEXT = "h", 8, 17
SHARD_ROWS, POOL_SHARDS = 1024, 4
POOL_ROWS = SHARD_ROWS * POOL_SHARDS
LAYOUT = Layout({HOOK: D_IN}, CONTEXT, SHARD_ROWS, 512, "lossless")


def harvest(folder: Path, num_tokens: int) -> Act:
    from saepipe.harvest.config import HarvestConfig  # with a model library, which the other kinds do not need
    from saepipe.harvest.run import harvest as make_cache

    settings = {
        "dataset": {"source": str(TEXT), "columns": [1, 2]},
        "model": {"model": "toy", "dtype": "float32", "device": "cpu"},
        "num_tokens": num_tokens,
        "heldout_tokens": num_tokens // 20,
    }
    config = HarvestConfig.parse(settings)
    rounds = iter(range(1000))
    return lambda: make_cache(config, folder / f"cache-{os.getpid()}-{next(rounds)}")


def text(folder: Path, num_tokens: int) -> Act:
    """Reads, tokenises and packs AG News, and digests it for the cache, without a model's pass."""
    from saepipe.harvest.bos_token import with_bos
    from saepipe.harvest.config import HarvestConfig
    from saepipe.harvest.describe import make_windows
    from saepipe.harvest.feed import WindowFeed
    from saepipe.harvest.model import load_model

    settings = {"dataset": {"source": str(TEXT), "columns": [1, 2]}, "model": {"model": "toy", "device": "cpu"}}
    config = HarvestConfig.parse(settings)
    lm = with_bos(load_model(config.model), config.bos_token)
    feed = WindowFeed(make_windows(config, lm), 32, 0)

    def act() -> None:
        for _ in islice(feed.train_batches(), num_tokens // (32 * config.context_size)):
            pass

    return act


def write(folder: Path, num_shards: int) -> Path:
    """Writes a cache of random rows, 16 tokens a context, in a process that does not wait for the disk."""
    os.fsync = lambda descriptor: None  # type: ignore[assignment]
    out, num_rows = folder / "cache", num_shards * SHARD_ROWS
    rows = torch.randn(POOL_ROWS, D_IN).bfloat16()
    attributes = {"format_version": 1, "hooks": [HOOK], "d_in": D_IN, "num_heldout_contexts": 0, "config": {}}
    attributes |= {"model": {"id": "made up"}, "context_size": CONTEXT, "special_ids": [0], "bos_id": 0}
    pool_rows = {"train": POOL_ROWS, "heldout": SHARD_ROWS}
    with artifact.writer_lock(out), closing(CacheWriter(out, LAYOUT, pool_rows, threads=1)) as writer:
        writer.start(attributes)
        for number, start in enumerate(range(0, num_rows, POOL_ROWS)):
            writer.put(_pool(number, start, rows[: num_rows - start]))
        for shard, first in enumerate(range(0, num_rows // 16, SHARD_ROWS)):
            shape = min(SHARD_ROWS, num_rows // 16 - first), CONTEXT
            ids = np.random.default_rng(shard).integers(1, 1000, shape, dtype=np.int32)
            parts = {"contexts": ids, "documents": np.zeros(shape, np.int32), "keep": np.ones(shape, bool)}
            writer.put_contexts("train", shard, parts)
        writer.finish(attributes)
    return out


def _pool(number: int, start: int, rows: torch.Tensor) -> RowPool:
    row_ids = np.arange(start, start + len(rows))
    arrays = {
        Layout.acts(HOOK): rows.view(torch.int16).numpy().view(np.uint16),
        Layout.norm(HOOK): rows.float().norm(dim=1).numpy(),
        Layout.CONTEXT_ID: row_ids // 16,
        Layout.POSITION: (row_ids % 16 + 1).astype(np.int32),
    }
    facts = {"batches": number + 1, "used": len(rows), "dropped": 0}
    return RowPool("train", number, arrays, permutation(len(rows), 0, number).numpy(), facts)


def opened(folder: Path, num_shards: int) -> Act:
    return lambda: Cache.open(folder / "cache")


def verified(folder: Path, num_shards: int) -> Act:
    cache = Cache.open(folder / "cache")
    return cache.damage


def resumed(folder: Path, num_shards: int) -> Act:
    def act() -> None:
        pool_rows = {"train": POOL_ROWS, "heldout": SHARD_ROWS}
        with closing(CacheWriter(folder / "cache", LAYOUT, pool_rows, threads=1)) as writer:
            StoredRuns.of(writer.pools("train"), POOL_ROWS)

    return act


def gaps(folder: Path, num_pools: int) -> Act:
    """Cuts the pools that are missing from a cache in which every second one is stored, without a model."""
    size = 16
    spec = SplitSpec("train", size, num_pools * size, lambda num_rows, pool: np.arange(num_rows))
    ids = np.ones((1, size), np.int32)
    facts = {"num_rows": size, "used": size, "dropped": 0}
    lines = [{"pool": pool, "batches": pool + 1, **facts} for pool in range(0, num_pools, 2)]

    def start(batch: WindowBatch) -> PendingRows:
        return PendingRows(size, lambda: Rows({"x": batch.ids[0]}))

    def act() -> None:
        batches = (WindowBatch(number, ids, ids) for number in range(num_pools))
        for _ in cut_pools(spec, batches, start, StoredRuns.of(lines, size)):
            pass

    return act


def epoch(folder: Path, num_shards: int) -> Act:
    cache = Cache.open(folder / "cache")

    def act() -> None:
        with BatchStream(cache, HOOK, 1024, 0, threads=1) as stream:
            for _ in islice(stream.batches(), stream.num_rows // stream.batch_size):
                pass

    return act


def text_order(folder: Path, num_shards: int) -> Act:
    """Reads rows as a feature store does: context by context, with the text around each."""
    cache, settings = Cache.open(folder / "cache"), Features(num_tokens=None)

    def act() -> None:
        for chunk in chunks(cache, HOOK, settings):
            surroundings.of_chunk(cache, "train", chunk)

    return act
