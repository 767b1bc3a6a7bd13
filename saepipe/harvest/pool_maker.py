"""Makes pools: runs the passes of the windows that feed them, and queues their rows for writing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from saepipe.data.cache.layout import Split
from saepipe.data.cache.writer import RowPool
from saepipe.data.folders.artifact import Line
from saepipe.data.ranks.launch import Ranks
from saepipe.data.terminal.progress import Progress
from saepipe.harvest.pass_workers import PassWorkers
from saepipe.harvest.pool_text import PoolText
from saepipe.harvest.pools import SplitSpec, StoredRuns, cut_pools
from saepipe.harvest.rows import PendingRows, Rows, WindowBatch


class PoolWriter(Protocol):
    """Writes pools: of a cache, or behind the head of a rolling cache."""

    bytes_written: int

    @property
    def takes_any_pool(self) -> bool: ...

    def pools(self, split: Split) -> list[Line]:
        """Returns the manifest lines of the pools that need not be made, in order."""

    def adopt(self) -> None: ...

    def put(self, pool: RowPool) -> None: ...

    def wait(self) -> None: ...

    def log(self, **facts: Any) -> None: ...


class PoolMaker:
    """Makes the pools of one split after the other; the last that it has queued may not be written yet."""

    def __init__(self, writer: PoolWriter, passes: PassWorkers, progress: Progress) -> None:
        self._writer, self._passes, self._progress = writer, passes, progress
        self._began, self._bytes_before = 0.0, 0

    def begin(self, spec: SplitSpec, ranks: Ranks = Ranks()) -> None:  # noqa: B008 - a frozen value
        """Shows a split, or a rank's share of it, and how much of that is stored."""
        lines = [line for line in self._writer.pools(spec.split) if ranks.owns(line["pool"])]
        done, share = sum(line["num_rows"] for line in lines), num_own_rows(spec, ranks)
        what = f"harvest {spec.split}" + (f", rank {ranks.rank} of {ranks.size}" if ranks.size > 1 else "")
        self._progress.start(what, share, "tokens", done=done)
        if done:
            self._progress.say(f"{spec.split}: {done:,} of {share:,} tokens are stored already")
        self._began, self._bytes_before = time.monotonic(), self._writer.bytes_written
        self._writer.log(split=spec.split, pool=None, rows=0)  # so that the log shows the time of the first pool

    def make_missing(self, spec: SplitSpec, batches: Iterable[WindowBatch], start: Callable[[], None]) -> None:
        """Makes the pools of a split that are not stored yet.

        Args:
            spec: the pools of the split.
            batches: all of its batches.
            start: is called before each pass.
        """

        def start_pass(batch: WindowBatch) -> PendingRows:
            start()
            return self._start(batch, spec.split)

        stored = StoredRuns.of(self._writer.pools(spec.split), spec.pool_rows)
        for pool in cut_pools(spec, batches, start_pass, stored, self._passes.in_flight):
            self._writer.put(pool)
            self._writer.log(split=spec.split, pool=pool.number, rows=len(pool.order))

    def make(self, spec: SplitSpec, text: PoolText) -> None:
        """Makes one pool from its text."""

        def start_pass(batch: WindowBatch) -> PendingRows:
            return self._start(batch, spec.split)

        alone, begin = replace(spec, limit=text.end), StoredRuns({0: text.begin})
        for pool in cut_pools(alone, text.batches, start_pass, begin, self._passes.in_flight, text.first_batch):
            self._writer.put(pool)
            self._writer.log(split=spec.split, pool=pool.number, rows=len(pool.order))

    def _start(self, batch: WindowBatch, split: Split) -> PendingRows:
        pending = self._passes.start(batch, split)

        def wait() -> Rows:
            rows = pending.wait()
            megabytes = (self._writer.bytes_written - self._bytes_before) / 1e6
            rate = round(megabytes / (time.monotonic() - self._began), 2)
            self._progress.advance(len(rows), of="", **{"MB/s": rate})
            return rows

        return replace(pending, wait=wait)


def num_own_rows(spec: SplitSpec, ranks: Ranks) -> int:
    """Returns the number of rows in the pools of a split that a rank owns."""
    firsts = range(ranks.rank * spec.pool_rows, spec.limit, ranks.size * spec.pool_rows)
    return sum(min(spec.pool_rows, spec.limit - first) for first in firsts)
