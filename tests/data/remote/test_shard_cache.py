"""Local copies of shards: bounded, by content, fetched once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from saepipe.data.errors import ConfigError, OutOfSpaceError, RemoteError
from saepipe.data.folders.artifact import digest_bytes
from saepipe.data.remote.shard_cache import ShardCache, shard_cache

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


def get(cache: ShardCache, number: int, calls: list[int] | None = None) -> bytes:
    return cache.wait(ENTRIES[number], cache.fetch(ENTRIES[number], writes(number, calls))).read_bytes()


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

    ahead = cache.fetch(ENTRIES[0], slow)
    begun.wait()
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


def test_shards_in_use_stay(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path, 300)
    for number in range(3):
        get(cache, number)
    with pytest.raises(OutOfSpaceError, match="the shards in use take more than the 3e-07 GB"):
        get(cache, 3)
    assert copies(tmp_path) == set(SHARDS[:3])


def test_a_fetch_that_failed_is_tried_again(tmp_path: Path) -> None:
    def fails(path: Path) -> None:
        raise RemoteError("no")

    cache = ShardCache(tmp_path, 1e6)
    with pytest.raises(RemoteError):
        cache.wait(ENTRIES[0], cache.fetch(ENTRIES[0], fails))
    assert get(cache, 0) == SHARDS[0]
    cache.path(ENTRIES[0]).unlink()  # by another process
    assert get(cache, 0) == SHARDS[0]


def test_a_shard_that_was_sent_is_adopted(tmp_path: Path) -> None:
    cache, calls = ShardCache(tmp_path / "shards", 300), list[int]()
    for number in range(5):
        (tmp_path / "staged").write_bytes(SHARDS[number])
        os.utime(tmp_path / "staged", (number, number))
        cache.adopt(tmp_path / "staged", ENTRIES[number])
    assert not (tmp_path / "staged").exists()
    assert copies(tmp_path / "shards") == set(SHARDS[2:5])
    assert get(cache, 4, calls) == SHARDS[4]
    assert calls == []


def test_the_environment_says_where_and_how_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAEPIPE_SHARDS", str(tmp_path / "here"))
    monkeypatch.setenv("SAEPIPE_SHARDS_GB", "2e-7")
    shard_cache.cache_clear()
    get(shard_cache(), 0)
    assert copies(tmp_path / "here") == {SHARDS[0]}
    get(shard_cache(), 1)
    with pytest.raises(OutOfSpaceError):
        get(shard_cache(), 2)
    monkeypatch.setenv("SAEPIPE_SHARDS_GB", "lots")
    shard_cache.cache_clear()
    with pytest.raises(ConfigError, match="SAEPIPE_SHARDS_GB is 'lots'"):
        shard_cache()
    shard_cache.cache_clear()
