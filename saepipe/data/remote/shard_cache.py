"""Local copies of shards, by content: bounded in size, fetched when they are needed or ahead of that.

A copy's name is its digest, so that no copy is ever stale, and equal shards of several caches are kept once. What was
used least recently makes room. Copies that this process reads stay.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from pathlib import Path
from threading import Lock

from saepipe.data.bucket_address import cache_folder
from saepipe.data.errors import ConfigError, OutOfSpaceError
from saepipe.data.remote.bucket import Entry
from saepipe.data.workers import Workers

NUM_THREADS = 8
"""Shards that are fetched at a time."""

KEPT_SHARE = 0.9
"""Share of the limit that is left once room is made, so that it is not made for each shard."""

DEFAULT_GB = "100"


class ShardCache:
    """A folder of at most `max_bytes`. Thread-safe; several processes may share it."""

    def __init__(self, folder: Path, max_bytes: float) -> None:
        self._folder, self._max_bytes = folder, max_bytes
        self._workers: Workers | None = None
        self._fetches: dict[Path, Future[None]] = {}
        self._num_bytes: int | None = None  # of all copies, as far as this process knows
        self._lock, self._room = Lock(), Lock()

    def path(self, entry: Entry) -> Path:
        """Where the copy of a shard is, if it is there."""
        return self._folder / entry["xxh3"][:2] / f"{entry['xxh3']}-{entry['bytes']}"

    def fetch(self, entry: Entry, download: Callable[[Path], None]) -> Future[None]:
        """Starts to fetch a shard unless it is here; the result is awaited with `wait`.

        Args:
            entry: of the shard.
            download: writes it to a path, atomically.
        """
        path = self.path(entry)
        with self._lock:
            fetch = self._fetches.get(path)
            if fetch is None or (fetch.done() and (fetch.exception() or not path.exists())):
                self._workers = self._workers or Workers(NUM_THREADS, "fetch")
                fetch = self._fetches[path] = self._workers.submit(self._have, path, entry["bytes"], download)
            return fetch

    def wait(self, entry: Entry, fetch: Future[None]) -> Path:
        """Returns the path of a copy once it is here; it stays there while this process runs.

        Raises:
            OutOfSpaceError: if the shards that this process reads do not fit.
        """
        assert self._workers is not None, "nothing was fetched"
        self._workers.result(fetch)
        return self.path(entry)

    def adopt(self, path: Path, entry: Entry) -> None:
        """Moves a shard that was written here, and sent, among the copies."""
        with suppress(OutOfSpaceError):  # shards in use: the next fetch says so
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
            if self._num_bytes <= self._max_bytes:
                return
            self._num_bytes = num_bytes + self._measure()  # other processes have added and removed copies, too
            for path, status in sorted(self._copies(), key=lambda copy: copy[1].st_mtime_ns):
                if self._num_bytes > KEPT_SHARE * self._max_bytes and path not in self._fetches:
                    path.unlink(missing_ok=True)
                    self._num_bytes -= status.st_size
            if self._num_bytes > self._max_bytes:
                message = f"the shards in use take more than the {self._max_bytes / 1e9:g} GB of {self._folder}"
                raise OutOfSpaceError(message, hint="set SAEPIPE_SHARDS_GB to more, if the disk has it")

    def _copies(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.glob("*/*"):
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
