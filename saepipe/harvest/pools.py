"""Rows as they come from the model, cut into the pools that the cache shuffles and writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from saepipe.data.artifact import Line
from saepipe.data.cache import Split
from saepipe.data.cache_writer import RowPool
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
    def behind(cls, pools: Sequence[Line]) -> Cursor:
        """The cursor behind the last of a split's manifest lines."""
        if not pools:
            return cls()
        last = pools[-1]
        rows = sum(line["num_rows"] for line in pools)
        return cls(rows, len(pools), last["batches"], last["used"], last["dropped"])


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
    cursor: Cursor,
    *,
    pool_rows: int,
    limit: int,
    order: Callable[[int, int], np.ndarray],
) -> Iterator[RowPool]:
    """Pools of `pool_rows` rows from `cursor` on, until `limit` rows are reached or the batches end.

    Args:
        split: whose rows these are.
        batches: all batches of the split from the first on; those before the cursor are not run again.
        forward: gives a batch's rows.
        cursor: where to go on.
        pool_rows: rows a pool; the last one may hold fewer.
        limit: rows of the split in all.
        order: (num_rows, pool) to the order in which the pool's rows are stored.
    """
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
        if stored == limit:
            return
    if buffer.filled:
        yield pool()
