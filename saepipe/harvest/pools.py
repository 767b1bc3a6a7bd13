"""Cuts the rows that come from the model into the pools that the cache shuffles and writes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Self

import numpy as np

from saepipe.data.cache.layout import Split
from saepipe.data.cache.writer import RowPool
from saepipe.data.folders.artifact import Line
from saepipe.harvest.ahead import Ahead
from saepipe.harvest.rows import PendingRows, Rows, WindowBatch


@dataclass(frozen=True)
class SplitSpec:
    """A split of a cache: up to `limit` rows in pools of `pool_rows`, of which the last may hold fewer."""

    split: Split
    pool_rows: int
    limit: int
    order: Callable[[int, int], np.ndarray]
    """Maps (num_rows, pool) to the order in which that pool's rows are stored."""

    def missing(self, position: Position, stored: StoredRuns) -> int:
        """Number of rows from `position` to the next stored pool, or to the limit."""
        next_stored = stored.next_after(position.pools)
        end = self.limit if next_stored is None else min(self.limit, next_stored * self.pool_rows)
        return end - position.rows


@dataclass
class Position:
    """A place in the rows of a split: the rows and pools before it, and where in the forward passes the next row is.

    The next row is row `used` of batch `batches - 1`, or the first row of batch `batches` if that batch is used up.
    """

    rows: int = 0
    pools: int = 0
    batches: int = 0
    used: int = 0
    dropped: int = 0

    @classmethod
    def after(cls, pool: Line, pool_rows: int) -> Position:
        """The position after a stored pool, from its manifest line; only a split's last pool is not full."""
        number = pool["pool"]
        rows = number * pool_rows + pool["num_rows"]
        return cls(rows, number + 1, pool["batches"], pool["used"], pool["dropped"])

    def skip_to(self, other: Position) -> None:
        self.rows, self.pools, self.batches, self.used, self.dropped = astuple(other)

    def enter(self, batch: int, num_dropped: int) -> None:
        """Moves to the first row of batch number `batch`, unless the position is within it already."""
        if batch == self.batches:
            self.batches, self.used, self.dropped = batch + 1, 0, self.dropped + num_dropped

    def advance(self, num_rows: int) -> None:
        """Moves on by some rows of the current batch."""
        self.rows += num_rows
        self.used += num_rows

    def end_pool(self, stored: StoredRuns) -> None:
        """Moves to the next pool to make, over any pools that are stored already."""
        self.pools += 1
        if after := stored.after.get(self.pools):
            self.skip_to(after)


class StoredRuns:
    """The runs of consecutive stored pools of a split; there are many if ranks were stopped, or pools damaged."""

    def __init__(self, after: Mapping[int, Position]) -> None:
        """`after` has the position after each run by the number of its first pool, in ascending order."""
        self.after, self.first = after, tuple(after)

    @classmethod
    def of(cls, pools: Sequence[Line], pool_rows: int) -> Self:
        """Returns the runs of stored pools, from their manifest lines in order; a full pool has `pool_rows`."""
        after: dict[int, Position] = {}
        first = expected = -1
        for line in pools:
            if line["pool"] != expected:
                first = line["pool"]
            expected = line["pool"] + 1
            after[first] = Position.after(line, pool_rows)
        return cls(after)

    def next_after(self, pool: int) -> int | None:
        """Returns the first stored pool of a run after `pool`; None if there is none."""
        index = bisect_right(self.first, pool)
        return self.first[index] if index < len(self.first) else None


class _PoolBuffer:
    """Collects the rows of one pool."""

    def __init__(self, spec: SplitSpec) -> None:
        self.num_rows = 0
        self._spec = spec
        self._arrays: dict[str, np.ndarray] = {}

    def take(self, rows: Rows, position: Position) -> int:
        """Copies rows of the current batch, as many as the pool and the limit allow; returns their number."""
        spec, start = self._spec, position.used
        count = min(len(rows) - start, spec.pool_rows - self.num_rows, spec.limit - position.rows)
        for name, values in rows.slice(start, start + count).items():
            if name not in self._arrays:
                self._arrays[name] = np.empty((spec.pool_rows, *values.shape[1:]), values.dtype)
            self._arrays[name][self.num_rows : self.num_rows + count] = values
        self.num_rows += count
        return count

    def pool(self, position: Position, text: str) -> RowPool:
        """The collected rows; `text` is the digest of what was read until the end of the current batch."""
        arrays = {name: values[: self.num_rows] for name, values in self._arrays.items()}
        facts: dict[str, int | str] = {"batches": position.batches, "used": position.used, "dropped": position.dropped}
        facts |= {"text": text} if text else {}
        order = self._spec.order(self.num_rows, position.pools)
        return RowPool(self._spec.split, position.pools, arrays, order, facts)


def cut_pools(
    spec: SplitSpec,
    batches: Iterable[WindowBatch],
    start: Callable[[WindowBatch], PendingRows],
    stored: StoredRuns,
    in_flight: int = 1,
    first_batch: int = 0,
) -> Iterator[RowPool]:
    """Yields the pools of a split that are not stored yet, until its limit is reached or the batches end.

    Args:
        spec: the pools of the split.
        batches: of the split, from number `first_batch` on; batches without rows of a missing pool are not run.
        start: starts the forward pass of a batch.
        stored: the pools that exist already.
        in_flight: passes to start before the first is waited for.
        first_batch: number of the first of the batches; it holds rows of a missing pool unless it is 0.
    """
    position, buffer, text = Position(), _PoolBuffer(spec), ""
    position.skip_to(stored.after.get(0, position))
    ahead = Ahead(batches, start, in_flight, first_batch)
    ahead.fill(position.batches - 1, spec.missing(position, stored))
    while (started := ahead.pop()) is not None:
        rows, text = started.rows.wait(), started.batch.text
        position.enter(started.number, rows.num_dropped)
        # Before the rows are copied and a pool may have to wait until the last one is written.
        ahead.fill(position.batches - 1, spec.missing(position, stored) - (len(rows) - position.used))
        while position.batches == started.number + 1 and position.used < len(rows) and position.rows < spec.limit:
            position.advance(buffer.take(rows, position))
            if buffer.num_rows == spec.pool_rows or position.rows == spec.limit:
                yield buffer.pool(position, text)
                buffer = _PoolBuffer(spec)
                position.end_pool(stored)
        ahead.fill(position.batches - 1, spec.missing(position, stored))
    if buffer.num_rows:
        yield buffer.pool(position, text)
