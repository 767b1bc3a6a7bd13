"""Writes pools behind the head of a rolling cache, each as a cache of its own, when there is room for it."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import closing
from dataclasses import replace
from threading import Event
from typing import Any

from saepipe.data.cache.layout import Layout, Split
from saepipe.data.cache.writer import CacheWriter, RowPool
from saepipe.data.folders.artifact import Line
from saepipe.data.rolling.rolling_folder import RollingFolder
from saepipe.data.workers import Workers

_POLL_SECONDS = 0.05


class RollingWriter:
    """Writes one pool at a time in a thread, while the rows of the next are collected."""

    takes_any_pool = True

    def __init__(
        self,
        folder: RollingFolder,
        layout: Layout,
        pool_rows: Mapping[Split, int],
        attributes: Mapping[str, Any],
        *,
        most_pools: int,
        threads: int,
        rank: int = 0,
    ) -> None:
        """
        Args:
            folder: receives the pools.
            layout: of the head and of each pool.
            pool_rows: rows of a full pool, by split.
            attributes: of the head.
            most_pools: pools that may be here at a time, from the first that the training needs on.
            threads: number of encoder threads.
            rank: of this process among those that harvest.
        """
        self._folder, self._layout, self._pool_rows, self._rank = folder, layout, pool_rows, rank
        self._attributes = {**attributes, "num_contexts": 0, "num_heldout_contexts": 0}
        self._most_pools, self._threads = most_pools, threads
        self._worker, self._closed = Workers(1, "write pools"), Event()
        self._pending: Future[None] | None = None
        self.bytes_written = 0

    def close(self) -> None:
        """Stops the thread; a pool that is not finished by then will be made again."""
        self._closed.set()
        self._worker.close()

    def pools(self, split: Split) -> list[Line]:
        """Returns the lines of the pools that need not be made: those that are here, or not needed any more."""
        lines = self._folder.lines() if split == "train" else []
        made = {line["pool"] for line in lines if self._folder.is_made(line["pool"])}
        needed = self._folder.needed()  # read last: a pool that is passed meanwhile is below it
        return [line for line in lines if line["pool"] < needed or line["pool"] in made]

    def adopt(self) -> None:
        """Does nothing: `pools` always reads what all ranks have listed."""

    def put(self, pool: RowPool) -> None:
        """Queues a pool. Waits until the previous one is written, so that memory stays bounded."""
        self.wait()
        self._pending = self._worker.submit(self._write, pool)

    def wait(self) -> None:
        """Waits until all queued pools are written; raises any error from the thread."""
        if self._pending is not None:
            self._worker.result(self._pending)
            self._pending = None

    def log(self, **facts: Any) -> None:
        """Keeps no log: what was made is listed, and times are in the training's own log."""

    def _write(self, pool: RowPool) -> None:
        while pool.number >= self._folder.needed() + self._most_pools:
            if self._closed.wait(_POLL_SECONDS):
                return
        writer = CacheWriter(self._folder.pool(pool.number), self._layout, self._pool_rows, threads=self._threads)
        with closing(writer):
            writer.start(self._attributes)
            writer.put(replace(pool, number=0))
            writer.wait()
            (line,) = writer.pools("train")
            self._folder.add_line({**line, "pool": pool.number}, self._rank)  # before the training can pass the pool
            writer.finish({**self._attributes, "num_tokens": len(pool.order)})
        self.bytes_written += writer.bytes_written
