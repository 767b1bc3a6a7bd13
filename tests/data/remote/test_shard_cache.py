"""Local copies of shards: bounded, by content, fetched once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from saepipe.data.errors import ConfigError, RemoteError
from saepipe.data.folders.artifact import digest_bytes
from saepipe.data.folders.disk import Room
from saepipe.data.remote import shard_cache as shard_cache_module
from saepipe.data.remote.shard_cache import Copy, ShardCache, shard_cache

pytestmark = pytest.mark.quick

SHARDS = [bytes([number]) * 100 for number in range(6)]
ENTRIES = [digest_bytes(shard) for shard in SHARDS]


def writes(number: int, calls: list[int] | None = None) -> Callable[[Path], None]:
    def download(path: Path) -> None:
        if calls is not None:
            calls.append(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SHARDS[number])

    return download


def keep(cache: ShardCache, number: int, calls: list[int] | None = None) -> Copy:
    copy = cache.keep(ENTRIES[number], writes(number, calls))
    assert copy is not None
    copy.wait()
    return copy


def get(cache: ShardCache, number: int, calls: list[int] | None = None) -> bytes:
    return keep(cache, number, calls).path.read_bytes()


def copies(folder: Path) -> set[bytes]:
    return {path.read_bytes() for path in folder.glob("*/*")}


def test_a_shard_is_fetched_once(tmp_path: Path) -> None:
    calls: list[int] = []
    cache = ShardCache(tmp_path, 1e6)
    assert [get(cache, number, calls) for number in (0, 1, 0)] == [SHARDS[0], SHARDS[1], SHARDS[0]]
    assert get(ShardCache(tmp_path, 1e6), 1, calls) == SHARDS[1], "another process"
    assert calls == [0, 1]


def test_threads_that_need_a_shard_wait_for_one_fetch(tmp_path: Path) -> None:
    calls: list[int] = []
    cache, begun, go = ShardCache(tmp_path, 1e6), threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        begun.set()
        go.wait()
        writes(0, calls)(path)

    copy = cache.keep(ENTRIES[0], slow)
    assert copy is not None
    ahead = copy.begin()
    begun.wait()
    assert not copy.is_here
    threads = [threading.Thread(target=get, args=(cache, 0, calls)) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert not ahead.done()
    go.set()
    for thread in threads:
        thread.join()
    assert calls == [0]


def test_what_was_used_least_recently_makes_room(tmp_path: Path) -> None:
    for number in range(4):
        get(ShardCache(tmp_path, 1e6), number)
        os.utime(ShardCache(tmp_path, 1).path(ENTRIES[number]), (number, number))
    get(ShardCache(tmp_path, 1e6), 0)  # used again, so 1 and 2 are the oldest
    get(ShardCache(tmp_path, 400), 4)
    assert copies(tmp_path) == {SHARDS[0], SHARDS[3], SHARDS[4]}


def test_shards_in_use_stay_and_what_does_not_fit_beside_them_gets_no_copy(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 350)
    kept = [keep(cache, number) for number in range(3)]
    assert cache.keep(ENTRIES[3], writes(3)) is None
    assert cache.keep(ENTRIES[1], writes(1)) is kept[1]
    assert cache.num_kept(ENTRIES[1:5]) == 200 + 50
    assert copies(tmp_path) == set(SHARDS[:3])
    del kept[0]
    keep(cache, 3)
    assert copies(tmp_path) == set(SHARDS[1:4])


def test_a_disk_may_have_room_for_less_than_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    get(ShardCache(tmp_path, 1e6), 0)
    monkeypatch.setattr(shard_cache_module, "room_at", lambda folder: Room(folder, 300))
    assert ShardCache(tmp_path, 1e6).max_bytes == 100 + 0.9 * 300
    assert ShardCache(tmp_path, 150).max_bytes == 150


def test_a_fetch_that_failed_is_tried_again(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        raise RemoteError("no")

    cache = ShardCache(tmp_path, 1e6)
    failures = [fails, writes(0)]
    copy = cache.keep(ENTRIES[0], lambda path: failures.pop(0)(path))
    assert copy is not None
    with pytest.raises(RemoteError):
        copy.wait()
    assert copy.wait().read_bytes() == SHARDS[0]
    failures.append(writes(0))
    copy.path.unlink()  # by another process
    assert copy.wait().read_bytes() == SHARDS[0]


def test_a_shard_that_was_sent_is_adopted(tmp_path: Path) -> None:
    cache, calls = ShardCache(tmp_path / "shards", 300), list[int]()
    for number in range(5):
        (tmp_path / "staged").write_bytes(SHARDS[number])
        os.utime(tmp_path / "staged", (number, number))
        cache.adopt(tmp_path / "staged", ENTRIES[number])
    assert not (tmp_path / "staged").exists()
    assert copies(tmp_path / "shards") == set(SHARDS[2:5])
    kept = keep(cache, 4, calls)
    assert kept.path.read_bytes() == SHARDS[4]
    assert calls == []
    full = ShardCache(tmp_path / "shards", 50)
    (tmp_path / "staged").write_bytes(SHARDS[0])
    full.adopt(tmp_path / "staged", ENTRIES[0])
    assert not (tmp_path / "staged").exists()
    assert not full.path(ENTRIES[0]).exists()


def test_the_environment_says_where_and_how_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEPIPE_SHARDS", str(tmp_path / "here"))
    monkeypatch.setenv("SAEPIPE_SHARDS_GB", "2e-7")
    shard_cache.cache_clear()
    kept = [keep(shard_cache(), number) for number in (0, 1)]
    assert copies(tmp_path / "here") == set(SHARDS[:2])
    assert shard_cache().num_free == 200 - sum(copy.num_bytes for copy in kept) == 0
    monkeypatch.setenv("SAEPIPE_SHARDS_GB", "lots")
    shard_cache.cache_clear()
    with pytest.raises(ConfigError, match="SAEPIPE_SHARDS_GB is 'lots'"):
        shard_cache()
    shard_cache.cache_clear()
