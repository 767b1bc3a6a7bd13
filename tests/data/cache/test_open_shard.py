"""Shards in a bucket: fetched whole and kept here, or read chunk by chunk where the local shard cache is too small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.faulty_proxy import Fault
from helpers.made_caches import structured_rows, write_cache
from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import mirrors
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.fetched_shard import FetchedShard
from saepipe.data.cache.mapped_shard import MappedShard
from saepipe.data.cache.open_shard import open_shard
from saepipe.data.cache.ranged_shard import RangedShard
from saepipe.data.errors import CorruptDataError
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.request_failures import MissingObjectError

HOOK = "blocks.1.hook_resid_post"
ROWS = {HOOK: structured_rows(5000, 24)}  # 3 shards of 8 chunks, the last with 4
FIRST = f"acts/{HOOK}/c/0/0"


@pytest.fixture
def full(object_storage: ObjectStorage, monkeypatch: pytest.MonkeyPatch) -> ObjectStorage:
    """A machine that keeps no shard."""
    monkeypatch.setenv("SAEPIPE_SHARDS_GB", "1e-9")
    return object_storage


def opened(storage: ObjectStorage, profile: Profile = "none") -> Cache:
    """A cache that another machine has put into the bucket."""
    write_cache(storage.at("cache"), ROWS, profile=profile, snr_floor=0)
    storage.other_machine()
    cache = Cache.open(storage.at("cache"))
    storage.proxy.requests.clear()
    return cache


def shard(cache: Cache, name: str = FIRST) -> MappedShard | FetchedShard | RangedShard:
    reader = open_shard(cache.rows(HOOK).array, cache.path, name, cache.files[name])
    assert isinstance(reader, MappedShard | FetchedShard | RangedShard)
    return reader


def chunk(reader: MappedShard | FetchedShard | RangedShard, index: int) -> np.ndarray:
    rows = np.empty((256, 24), np.uint16)
    reader.read(index, rows)
    return rows


def num_copies() -> int:
    return len(list((mirrors().parent / "shards").glob("*/*")))


@pytest.mark.parametrize("profile", ["lossless", "none", "int8"])
def test_a_shard_without_a_copy_gives_what_its_file_does(full: ObjectStorage, tmp_path: Path, profile: Profile) -> None:
    local = Cache.open(write_cache(tmp_path / "cache", ROWS, profile=profile, snr_floor=0))
    cache = opened(full, profile)
    assert (cache[:] == local[:]).all()
    assert num_copies() == 0
    requests = [full.proxy.count("GET", f"cache/acts/{HOOK}/c/{number}/0") for number in range(3)]
    assert requests == [1 + 8 + 8, 1 + 8 + 8, 1 + 4 + 4], "the index, each checksum, and each chunk once"


def test_a_shard_with_a_copy_is_fetched_once(object_storage: ObjectStorage) -> None:
    cache = opened(object_storage)
    reader = shard(cache)
    assert isinstance(reader, FetchedShard)
    reader.will_need(3)
    first = [chunk(reader, index) for index in range(8)]
    reader.will_need(3)
    object_storage.restart()
    again = shard(Cache.open(object_storage.at("cache")))
    assert all((chunk(again, index) == first[index]).all() for index in range(8))
    assert object_storage.proxy.count("GET", FIRST) == 1
    assert num_copies() == 1


def test_a_chunk_is_fetched_ahead_and_given_up_when_it_is_read(full: ObjectStorage) -> None:
    cache = opened(full)
    reader = shard(cache)
    assert isinstance(reader, RangedShard)
    assert full.proxy.requests == [], "nothing is asked for before it is needed"
    for index in (5, 6, 5):
        reader.will_need(index)
    first = chunk(reader, 5)
    chunk(reader, 6)
    assert full.proxy.count("GET", FIRST) == 1 + 8 + 2
    assert (chunk(reader, 5) == first).all()
    assert full.proxy.count("GET", FIRST) == 1 + 8 + 3
    assert sum(request.num_answered for request in full.proxy.requests) < cache.files[FIRST]["bytes"]


@pytest.mark.parametrize("fault", ["503", "drop", "cut", "short"])
def test_a_part_that_does_not_come_whole_is_asked_for_again(full: ObjectStorage, fault: Fault) -> None:
    cache = opened(full)
    expected = chunk(shard(cache), 2)
    for number in (0, 1, 9):  # the index, a checksum, the chunk
        left = [None] * number + [fault]
        full.proxy.fault = lambda method, path, left=left: left.pop(0) if left and FIRST in path else None  # type: ignore[misc]
        assert (chunk(shard(cache), 2) == expected).all()
    assert full.proxy.num_faults == 3


def test_damage_is_never_read(full: ObjectStorage) -> None:
    cache, objects = opened(full), bucket_of(full.address)
    sound = objects.read(f"cache/{FIRST}").content
    flipped = bytearray(sound)
    flipped[3 * len(sound) // 8] ^= 1
    other = objects.read(f"cache/acts/{HOOK}/c/1/0").content
    last = bytearray(sound)
    last[-20] ^= 1
    damages = {
        bytes(flipped): "has a damaged chunk 3",
        other: "is not the shard that the manifest lists",
        bytes(last): "has a damaged index",
        sound[:1000]: "",
    }
    for content, problem in damages.items():
        objects.put(f"cache/{FIRST}", content)
        reader = shard(cache)
        with pytest.raises(CorruptDataError, match=rf"{full.at('cache')}/{FIRST} .*{problem}"):
            chunk(reader, 3)
        if problem == "has a damaged chunk 3":
            chunk(reader, 2)
    objects.delete([f"cache/{FIRST}"])
    with pytest.raises(MissingObjectError, match="NoSuchKey"):
        chunk(shard(cache), 0)


def test_a_damaged_shard_gets_no_copy(object_storage: ObjectStorage) -> None:
    cache, objects = opened(object_storage), bucket_of(object_storage.address)
    objects.put(f"cache/{FIRST}", bytes(cache.files[FIRST]["bytes"]))
    with pytest.raises(CorruptDataError, match="xxh3 differs"):
        shard(cache).open()
    objects.delete([f"cache/{FIRST}"])
    with pytest.raises(MissingObjectError, match="NoSuchKey"):
        shard(cache).open()
    assert num_copies() == 0


def test_a_file_in_a_folder_is_mapped(tmp_path: Path) -> None:
    cache = Cache.open(write_cache(tmp_path / "cache", ROWS))
    assert isinstance(shard(cache), MappedShard)
