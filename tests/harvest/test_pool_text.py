"""The text of each pool is what a single reader would have fed it, and a folder hands it on unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from saepipe.harvest.pool_text import PoolText, TextFolder, pool_texts
from saepipe.harvest.pools import Position, SplitSpec, StoredRuns, cut_pools
from saepipe.harvest.rows import PendingRows, Rows, WindowBatch

CONTEXT = 4


def batches(num_batches: int, seed: int = 0) -> Iterator[WindowBatch]:
    """Yields batches of 1 to 3 windows, with some tokens that are not stored."""
    rng, first = np.random.default_rng(seed), 0
    for number in range(num_batches):
        shape = (int(rng.integers(1, 4)), CONTEXT)
        ids = rng.integers(0, 100, shape).astype(np.int32)
        yield WindowBatch(first, ids, ids // 10, f"digest {number}", rng.random(shape) < 0.8)
        first += shape[0]


def num_rows(batch: WindowBatch) -> int:
    assert batch.stored is not None
    return int(batch.stored.sum())


def started(batch: WindowBatch) -> PendingRows:
    """Returns rows that tell each token of the text from all others."""
    where = np.arange(batch.ids.size).reshape(batch.ids.shape) + CONTEXT * batch.first
    return PendingRows(num_rows(batch), lambda: Rows({"place": where[batch.stored]}))


def order(num_rows: int, pool: int) -> np.ndarray:
    return np.random.default_rng(pool).permutation(num_rows)


@pytest.mark.parametrize("limit", [60, 57, 1000])  # a full last pool, a partial one, text that ends before
@pytest.mark.parametrize("pool_rows", [3, 10, 40])  # several pools to a batch, several batches to a pool
def test_pools_made_from_their_own_text_are_those_of_the_whole(pool_rows: int, limit: int) -> None:
    spec = SplitSpec("train", pool_rows, limit, order)
    expected = list(cut_pools(spec, batches(30), started, StoredRuns({})))
    texts = list(pool_texts(spec, batches(30), num_rows))
    assert [text.begin.pools for text in texts] == [pool.number for pool in expected]
    for text, pool in zip(texts, expected, strict=True):
        alone = SplitSpec("train", pool_rows, text.end, order)
        (made,) = cut_pools(alone, text.batches, started, StoredRuns({0: text.begin}), first_batch=text.first_batch)
        assert (made.number, made.facts) == (pool.number, pool.facts)
        np.testing.assert_array_equal(made.arrays["place"], pool.arrays["place"])
        np.testing.assert_array_equal(made.order, pool.order)


def test_no_batch_is_read_after_the_limit() -> None:
    source = batches(30)
    list(pool_texts(SplitSpec("train", 10, 20, order), source, num_rows))
    read = 30 - sum(1 for _ in source)
    sizes = np.cumsum([num_rows(batch) for batch in batches(30)])
    assert read == int(np.searchsorted(sizes, 20)) + 1


def test_a_split_without_rows_reads_nothing() -> None:
    source = batches(2)
    assert list(pool_texts(SplitSpec("heldout", 10, 0, order), source, num_rows)) == []
    assert sum(1 for _ in source) == 2


def test_a_folder_hands_texts_on(tmp_path: Path) -> None:
    folder, looks = TextFolder(tmp_path), list[int]()
    text = PoolText(Position(20, 2, 5, 1), 27, 4, list(batches(3)))

    def look() -> None:
        looks.append(1)
        if len(looks) == 1:
            folder.put("train", text)
        else:
            folder.end("train")

    taken = folder.take("train", 2, look)
    assert taken is not None
    assert (taken.begin, taken.end, taken.first_batch) == (text.begin, 27, 4)
    for ours, theirs in zip(taken.batches, text.batches, strict=True):
        assert (ours.first, ours.text) == (theirs.first, theirs.text)
        for name in ("ids", "documents", "stored"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))
    assert folder.take("train", 3, look) is None
    assert len(looks) == 2
    assert list((tmp_path / "ranks" / "text").glob("*.npz")) == []
