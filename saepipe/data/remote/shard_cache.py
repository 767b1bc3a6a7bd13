"""Local copies of shards, by content: bounded in size, fetched when they are needed or ahead of that.

A copy's name is its digest, so that no copy is ever stale, and equal shards of several caches are kept once. What was
used least recently makes room. Copies that this process reads stay; a shard that does not fit beside them gets none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from threading import Lock, RLock
from weakref import WeakValueDictionary

from saepipe.data.bucket_address import cache_folder
from saepipe.data.errors import ConfigError
from saepipe.data.folders.disk import room_at
from saepipe.data.remote.bucket import Entry
from saepipe.data.remote.fetchers import fetchers

KEPT_SHARE = 0.9
"""Share of the limit that is left once room is made, so that it is not made for each shard; and of a disk's room."""

DEFAULT_GB = "100"


class Copy:
    """A shard that is here or on its way. It stays while this object lives."""

    def __init__(self, path: Path, num_bytes: int, have: Callable[[], None]) -> None:
        self.path, self.num_bytes = path, num_bytes
        self._have, self._lock = have, Lock()
        self._fetch: Future[None] | None = None

    @property
    def is_here(self) -> bool:
        """Returns whether `wait` need not wait."""
        return (fetch := self._fetch) is not None and fetch.done()

    def begin(self) -> Future[None]:
        """Starts to fetch it, unless it is here or on its way; a fetch that failed is tried again."""
        with self._lock:
            fetch = self._fetch
            if fetch is None or (fetch.done() and (fetch.exception() or not self.path.exists())):
                self._fetch = fetch = fetchers().submit(self._have)
            return fetch

    def wait(self) -> Path:
        """Returns its path once it is here; raises the error of the download."""
        fetchers().result(self.begin())
        return self.path


class ShardCache:
    """A folder of bounded size. Thread-safe; several processes may share it."""

    def __init__(self, folder: Path, asked_bytes: float) -> None:
        """Up to `asked_bytes` are kept, or as many as the disk has room for."""
        self.folder, self.asked_bytes = folder, asked_bytes
        self._in_use: WeakValueDictionary[Path, Copy] = WeakValueDictionary()
        self._num_bytes: int | None = None  # of all copies, as far as this process knows
        self._lock, self._room = RLock(), Lock()

    @cached_property
    def max_bytes(self) -> float:
        """Bytes that copies may take."""
        return min(self.asked_bytes, self._measure() + KEPT_SHARE * room_at(self.folder).num_bytes)

    @property
    def num_free(self) -> float:
        """Bytes that copies may take beside those that this process reads."""
        return self.max_bytes - sum(copy.num_bytes for copy in list(self._in_use.values()))

    def num_kept(self, entries: Collection[Entry]) -> int:
        """Returns how many bytes of shards get copies when all of them are read, beside what is read already."""
        in_use = {path: copy.num_bytes for path, copy in list(self._in_use.items())}
        new = sum(entry["bytes"] for entry in entries if self.path(entry) not in in_use)
        old = sum(in_use.get(self.path(entry), 0) for entry in entries)
        return old + int(min(new, self.max_bytes - sum(in_use.values())))

    def path(self, entry: Entry) -> Path:
        """Where the copy of a shard is, if it is there."""
        return self.folder / entry["xxh3"][:2] / f"{entry['xxh3']}-{entry['bytes']}"

    def keep(self, entry: Entry, download: Callable[[Path], None]) -> Copy | None:
        """Returns the copy of a shard, which is fetched once it is begun or awaited; None if it does not fit.

        Args:
            entry: of the shard.
            download: writes it to a path, atomically.
        """
        path, num_bytes = self.path(entry), entry["bytes"]
        with self._lock:
            copy = self._in_use.get(path)
            if copy is None and num_bytes <= self.num_free:
                copy = Copy(path, num_bytes, lambda: self._have(path, num_bytes, download))
                self._in_use[path] = copy
            return copy

    def adopt(self, path: Path, entry: Entry) -> None:
        """Moves a shard that was written here, and sent, among the copies, or removes it if it does not fit."""
        if entry["bytes"] > self.num_free:
            path.unlink()
            return
        self._make_room(entry["bytes"])
        copy = self.path(entry)
        copy.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, copy)

    def _have(self, path: Path, num_bytes: int, download: Callable[[Path], None]) -> None:
        if not path.exists():
            self._make_room(num_bytes)
            download(path)
        with suppress(OSError):
            os.utime(path)

    def _make_room(self, num_bytes: int) -> None:
        """Counts `num_bytes` that are coming; once the limit is passed, removes what this process does not read."""
        with self._room:
            self._num_bytes = num_bytes + (self._measure() if self._num_bytes is None else self._num_bytes)
            if self._num_bytes <= self.max_bytes:
                return
            self._num_bytes = num_bytes + self._measure()  # other processes have added and removed copies, too
            for path, status in sorted(self._copies(), key=lambda copy: copy[1].st_mtime_ns):
                if self._num_bytes > KEPT_SHARE * self.max_bytes and path not in self._in_use:
                    path.unlink(missing_ok=True)
                    self._num_bytes -= status.st_size

    def _copies(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self.folder.glob("*/*"):
            with suppress(FileNotFoundError):  # removed by another process
                yield path, path.stat()

    def _measure(self) -> int:
        return sum(status.st_size for _, status in self._copies())


@cache
def shard_cache() -> ShardCache:
    """Returns the user's: `$SAEPIPE_SHARDS`, by default in the user's cache folder, of `$SAEPIPE_SHARDS_GB`."""
    folder = Path(os.environ.get("SAEPIPE_SHARDS") or cache_folder() / "shards")
    size = os.environ.get("SAEPIPE_SHARDS_GB") or DEFAULT_GB
    try:
        return ShardCache(folder, float(size) * 1e9)
    except ValueError:
        raise ConfigError(f"SAEPIPE_SHARDS_GB is {size!r}", hint="a number of GB, such as 100") from None
