"""A process keeps few shards mapped at a time, however many a cache has, and reads the same rows."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.made_caches import structured_rows, write_cache
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache import mapped_shard
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.few_maps import FewMaps
from saepipe.data.errors import CorruptDataError

HOOK, MOST, NUM_SHARDS = "h", 3, 20


@pytest.fixture(params=["lossless", "none", "int8"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    profile: Profile = request.param
    rows = structured_rows(NUM_SHARDS * 64, 24)
    return write_cache(
        tmp_path / "cache", {HOOK: rows}, profile=profile, shard_rows=64, chunk_rows=32, pool_shards=5, snr_floor=0
    )


def num_mapped(folder: Path) -> int:
    """Returns how many descriptors of this process are of files in a folder."""
    targets = []
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # that of the listing itself
            targets.append(os.readlink(f"/proc/self/fd/{name}"))
    return sum(target.startswith(str(folder.resolve())) for target in targets)


def test_few_shards_are_mapped_at_a_time(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Cache.open(cache).rows(HOOK)
    expected = whole.read(0, whole.num_rows)
    del whole
    monkeypatch.setattr(mapped_shard, "FEW_MAPS", FewMaps(MOST))
    opened = Cache.open(cache)
    rows = opened.rows(HOOK)
    most = 0
    for _ in range(2):
        for shard in range(NUM_SHARDS):
            np.testing.assert_array_equal(
                rows.read(64 * shard, 64 * shard + 64), expected[64 * shard : 64 * shard + 64]
            )
            most = max(most, num_mapped(cache))
    assert 0 < most <= MOST
    with BatchStream(opened, HOOK, 64, seed=0, pool_chunks=4, threads=1) as stream:
        batches = torch.cat([*islice(stream.batches(), NUM_SHARDS)])
    read = np.sort(batches.view(torch.int16).numpy().view(np.uint16), axis=0)
    np.testing.assert_array_equal(read, np.sort(expected, axis=0))


def test_a_shard_that_changes_while_it_is_not_mapped_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_cache(
        tmp_path / "cache", {HOOK: structured_rows(256, 24)}, profile="none", shard_rows=64, chunk_rows=32
    )
    monkeypatch.setattr(mapped_shard, "FEW_MAPS", FewMaps(1))
    rows = Cache.open(folder).rows(HOOK)
    first = rows.read(0, 64)
    rows.read(64, 128)
    files = [folder / rows.array.file(shard) for shard in (0, 1)]
    os.replace(files[1], files[0])  # of the same size
    with pytest.raises(CorruptDataError, match="not the shard that the manifest lists"):
        rows.read(0, 64)
    assert first.any()
