"""Cuts the rows that come from the model into the pools that the cache shuffles and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass

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

    def missing(self, position: Position, stored: Mapping[int, Position]) -> int:
        """Number of rows from `position` to the next stored pool, or to the limit."""
        next_stored = min((pool for pool in stored if pool > position.pools), default=None)
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

    def end_pool(self, stored: Mapping[int, Position]) -> None:
        """Moves to the next pool to make, over any pools that are stored already."""
        self.pools += 1
        if self.pools in stored:
            self.skip_to(stored[self.pools])


def stored_runs(pools: Sequence[Line], pool_rows: int) -> dict[int, Position]:
    """The position after each run of consecutive stored pools, by the number of the run's first pool.

    Args:
        pools: manifest lines of a split's stored pools, in order. A cache under repair has gaps between them.
        pool_rows: rows of a full pool.
    """
    runs: dict[int, Position] = {}
    first = expected = -1
    for line in pools:
        if line["pool"] != expected:
            first = line["pool"]
        expected = line["pool"] + 1
        runs[first] = Position.after(line, pool_rows)
    return runs


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
    stored: Mapping[int, Position],
    in_flight: int = 1,
    first_batch: int = 0,
) -> Iterator[RowPool]:
    """Yields the pools of a split that are not stored yet, until its limit is reached or the batches end.

    Args:
        spec: the pools of the split.
        batches: of the split, from number `first_batch` on; batches without rows of a missing pool are not run.
        start: starts the forward pass of a batch.
        stored: the pools that exist already, as `stored_runs` gives them.
        in_flight: passes to start before the first is waited for.
        first_batch: number of the first of the batches; it holds rows of a missing pool unless it is 0.
    """
    position, buffer, text = Position(), _PoolBuffer(spec), ""
    position.skip_to(stored.get(0, position))
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
