"""Streams of a cache in a bucket that is larger than the room for its shards: the same batches, and few requests."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import torch

from helpers.made_caches import structured_rows, write_cache
from helpers.object_storage import ObjectStorage
from saepipe.data.batches.shuffle import pools
from saepipe.data.batches.stream import BatchStream
from saepipe.data.bucket_address import mirrors
from saepipe.data.cache.cache import Cache
from saepipe.data.remote.fetchers import fetchers

HOOK = "blocks.1.hook_resid_post"
NUM_ROWS, SHARD_CHUNKS, CHUNK_ROWS, POOL_CHUNKS = 3200, 8, 64, 16
SIZES = {"shard_rows": SHARD_CHUNKS * CHUNK_ROWS, "chunk_rows": CHUNK_ROWS}


def batches(cache: Cache, count: int) -> torch.Tensor:
    with BatchStream(cache, HOOK, 400, 0, pool_chunks=POOL_CHUNKS) as stream:
        return torch.cat(list(islice(stream.batches(), count)))


def test_two_passes_ask_for_a_shard_that_is_kept_once_and_for_a_chunk_of_another_twice(
    object_storage: ObjectStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = {HOOK: structured_rows(NUM_ROWS, 24)}
    local = Cache.open(write_cache(tmp_path / "cache", rows, **SIZES))
    write_cache(object_storage.at("cache"), rows, **SIZES)
    object_storage.other_machine()
    shards = local.rows(HOOK).shards
    bound = sum(entry["bytes"] for entry in shards.values()) / 3
    monkeypatch.setenv("SAEPIPE_SHARDS_GB", str(bound / 1e9))
    cache = Cache.open(object_storage.at("cache"))
    object_storage.proxy.requests.clear()
    num_batches = 2 * NUM_ROWS // 400
    assert torch.equal(batches(cache, num_batches), batches(local, num_batches))
    fetchers().close(cancel=False)  # what was asked for ahead is here, too

    kept = {path.name for path in (mirrors().parent / "shards").glob("*/*")}
    names = {name for name, entry in shards.items() if f"{entry['xxh3']}-{entry['bytes']}" in kept}
    assert sum(shards[name]["bytes"] for name in names) <= bound
    assert len(names) == len(shards) // 3
    num_chunks = NUM_ROWS // CHUNK_ROWS
    stream = islice(pools(NUM_ROWS, CHUNK_ROWS, POOL_CHUNKS, 0, 0), 2 * -(-num_chunks // POOL_CHUNKS) + 1)
    reads = Counter(f"acts/{HOOK}/c/{chunk // SHARD_CHUNKS}/0" for pool in stream for chunk in pool.chunks)
    for name in shards:
        first = int(name.split("/")[-2]) * SHARD_CHUNKS
        checksums = min(SHARD_CHUNKS, num_chunks - first)
        expected = 1 if name in names else 1 + checksums + reads[name]
        assert object_storage.proxy.count("GET", f"cache/{name}") == expected, name
