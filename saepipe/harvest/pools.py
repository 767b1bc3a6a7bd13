"""Rows as they come from the model, cut into the pools that the cache shuffles and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saepipe.data.cache.cache import Split
from saepipe.data.cache.writer import RowPool
from saepipe.data.folders.artifact import Line
from saepipe.harvest.rows import Rows, WindowBatch


@dataclass(frozen=True)
class Cursor:
    """How far a split has come: rows and pools stored, and where in the forward passes the next row stands.

    The next row is row `used` of batch `batches - 1`, or the first of batch `batches` where that one is used up.
    """

    rows: int = 0
    pools: int = 0
    batches: int = 0
    used: int = 0
    dropped: int = 0

    @classmethod
    def behind(cls, pool: Line, pool_rows: int) -> Cursor:
        """The cursor behind a whole pool, from its manifest line; only a split's last pool has fewer than pool_rows."""
        number = pool["pool"]
        rows = number * pool_rows + pool["num_rows"]
        return cls(rows, number + 1, pool["batches"], pool["used"], pool["dropped"])


def behind_runs(pools: Sequence[Line], pool_rows: int) -> dict[int, Cursor]:
    """The cursor behind each run of pools that follow one another, by the number of the run's first.

    Args:
        pools: manifest lines of a split's whole pools, in order. A cache under repair has gaps between them.
        pool_rows: rows of a full one.
    """
    found: dict[int, Cursor] = {}
    first = expected = -1
    for line in pools:
        if line["pool"] != expected:
            first = line["pool"]
        expected = line["pool"] + 1
        found[first] = Cursor.behind(line, pool_rows)
    return found


class _Buffer:
    """Room for one pool's rows."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.filled = 0
        self._arrays: dict[str, np.ndarray] = {}

    def take(self, rows: Rows, start: int, most: int) -> int:
        """Copies rows from `start` on, as many as fit and `most` allows; how many."""
        count = min(len(rows) - start, self.capacity - self.filled, most)
        for name, values in rows.slice(start, start + count).items():
            if name not in self._arrays:
                self._arrays[name] = np.empty((self.capacity, *values.shape[1:]), values.dtype)
            self._arrays[name][self.filled : self.filled + count] = values
        self.filled += count
        return count

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: values[: self.filled] for name, values in self._arrays.items()}


def cut_pools(
    split: Split,
    batches: Iterable[WindowBatch],
    forward: Callable[[WindowBatch], Rows],
    behind: Mapping[int, Cursor],
    *,
    pool_rows: int,
    limit: int,
    order: Callable[[int, int], np.ndarray],
) -> Iterator[RowPool]:
    """The pools of `pool_rows` rows that are not there, until `limit` rows are reached or the batches end.

    Args:
        split: whose rows these are.
        batches: all batches of the split from the first on; those that feed no missing pool are not run.
        forward: gives a batch's rows.
        behind: of the pools that are there, as `behind_runs` gives it.
        pool_rows: rows a pool; the last one may hold fewer.
        limit: rows of the split in all.
        order: (num_rows, pool) to the order in which the pool's rows are stored.
    """
    cursor = behind.get(0, Cursor())
    stored, number, dropped = cursor.rows, cursor.pools, cursor.dropped
    buffer = _Buffer(pool_rows)
    index = at = 0

    def pool() -> RowPool:
        facts = {"batches": index + 1, "used": at, "dropped": dropped}
        return RowPool(split, number, buffer.arrays(), order(buffer.filled, number), facts)

    for index, batch in enumerate(batches):
        if index < cursor.batches - 1:
            continue
        if stored == limit:
            return
        rows = forward(batch)
        at = cursor.used if index == cursor.batches - 1 else 0
        dropped += 0 if index == cursor.batches - 1 else rows.num_dropped
        while at < len(rows) and stored < limit:
            count = buffer.take(rows, at, limit - stored)
            at += count
            stored += count
            if buffer.filled == pool_rows or stored == limit:
                yield pool()
                number, buffer = number + 1, _Buffer(pool_rows)
            if number in behind:
                cursor = behind[number]
                stored, number, dropped = cursor.rows, cursor.pools, cursor.dropped
                at = cursor.used if index == cursor.batches - 1 else len(rows)
        if stored == limit and index >= cursor.batches - 1:
            return
    if buffer.filled:
        yield pool()
