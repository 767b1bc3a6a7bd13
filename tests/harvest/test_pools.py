"""Cutting batches into pools: missing pools are the same whichever others are stored, and idle batches do not run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, combinations
from typing import Any

import numpy as np
import pytest

from saepipe.data.cache.writer import RowPool
from saepipe.harvest.pools import Position, SplitSpec, StoredRuns, cut_pools
from saepipe.harvest.rows import PendingRows, Rows, WindowBatch

pytestmark = pytest.mark.quick

POOL_ROWS = 10


class Stream:
    """Batches of the given sizes, with consecutive row numbers; some rows are dropped on the way."""

    def __init__(self, sizes: list[int]) -> None:
        self.starts = np.concatenate([[0], np.cumsum(sizes)]).tolist()
        self.sizes = sizes
        self.read: list[int] = []
        self.run: list[int] = []

    def batches(self) -> Iterator[WindowBatch]:
        for index in range(len(self.sizes)):
            self.read.append(index)
            yield WindowBatch(index, np.array([[index]]), np.array([[index]]), text=f"text until {index}")

    def start(self, batch: WindowBatch) -> PendingRows:
        index = batch.first
        self.run.append(index)
        rows = np.arange(self.starts[index], self.starts[index + 1])
        return PendingRows(len(rows) + index % 3, lambda: Rows({"row": rows}, num_dropped=index % 3))

    def cut(self, limit: int, stored: list[dict[str, Any]], in_flight: int = 1) -> list[RowPool]:
        spec = SplitSpec("train", POOL_ROWS, limit, lambda num_rows, pool: np.arange(num_rows) + pool)
        return list(cut_pools(spec, self.batches(), self.start, StoredRuns.of(stored, POOL_ROWS), in_flight))


def line(pool: RowPool) -> dict[str, Any]:
    return {"pool": pool.number, "num_rows": len(pool.order), **pool.facts}


def plain(pool: RowPool) -> tuple[Any, ...]:
    return pool.number, pool.arrays["row"].tolist(), pool.order.tolist(), dict(pool.facts)


SIZES = {
    "even": [5] * 13,
    "one pool per batch": [10] * 6,
    "many pools per batch": [37, 25, 3],
    "uneven": [3, 7, 1, 9, 12, 4, 4, 8, 2, 15],
    "with empty batches": [0, 6, 0, 0, 14, 5, 0, 21, 0, 9, 0],
}


@pytest.mark.parametrize("limit", [55, 60, 1000], ids=lambda limit: f"limit {limit}")
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("in_flight", [1, 3])
def test_any_missing_pools_are_made_again_unchanged(sizes: list[int], limit: int, in_flight: int) -> None:
    """However many passes are in flight, the same batches are read and run."""
    whole = Stream(sizes)
    pools = whole.cut(limit, [])
    rows = [row for pool in pools for row in pool.arrays["row"].tolist()]
    assert rows == list(range(min(limit, sum(sizes))))
    assert all(len(pool.order) == POOL_ROWS for pool in pools[:-1])
    assert all(pool.facts["text"] == f"text until {pool.facts['batches'] - 1}" for pool in pools[:-1])
    numbers = range(len(pools))
    for missing in chain.from_iterable(combinations(numbers, count) for count in range(len(pools) + 1)):
        stream = Stream(sizes)
        made = stream.cut(limit, [line(pool) for pool in pools if pool.number not in missing], in_flight)
        assert [plain(pool) for pool in made] == [plain(pools[number]) for number in missing]
        assert stream.read == whole.read  # contexts and held-out windows come from every batch that is read
        needed_rows = {row for number in missing for row in pools[number].arrays["row"].tolist()}
        needed = {
            i for i, start in enumerate(stream.starts[:-1]) if needed_rows & {*range(start, stream.starts[i + 1])}
        }
        assert needed <= set(stream.run)
        assert len(stream.run) == len(set(stream.run))
        idle = [index for index in set(stream.run) - needed if sizes[index]]
        assert len(idle) <= 2 * len(missing) + 1  # at the ends of pools, and until the end of the split is reached


def test_runs_of_pools_are_listed_by_their_first_pool() -> None:
    lines = [{"pool": n, "num_rows": 10, "batches": 3 * n, "used": n, "dropped": 0} for n in (0, 1, 4, 6, 7)]
    runs = StoredRuns.of(lines, POOL_ROWS)
    assert {first: (position.pools, position.rows) for first, position in runs.after.items()} == {
        0: (2, 20),
        4: (5, 50),
        6: (8, 80),
    }
    assert runs.after[6] == Position(rows=80, pools=8, batches=21, used=7, dropped=0)
    assert [runs.next_after(pool) for pool in (0, 3, 4, 5, 6)] == [4, 4, 6, 6, None]
    assert StoredRuns.of([], POOL_ROWS).next_after(0) is None


class Counted(tuple[int, ...]):
    """A tuple that counts how often one of its entries is looked at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        Counted.looks += 1
        return super().__getitem__(index)


def test_a_batch_looks_at_few_of_the_stored_pools() -> None:
    num_pools = 400
    lines = [{"pool": n, "num_rows": 10, "batches": n + 1, "used": 10, "dropped": 0} for n in range(0, num_pools, 2)]
    runs, stream = StoredRuns.of(lines, POOL_ROWS), Stream([10] * num_pools)
    runs.first = Counted(runs.first)
    spec = SplitSpec("train", POOL_ROWS, num_pools * POOL_ROWS, lambda num_rows, pool: np.arange(num_rows))
    pools = list(cut_pools(spec, stream.batches(), stream.start, runs))
    assert [pool.number for pool in pools] == [*range(1, num_pools, 2)]
    assert Counted.looks / num_pools < 4 * np.log2(len(lines))
