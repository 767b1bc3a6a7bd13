"""The first rank looks once a pool, not once a batch, how many texts wait for their owners."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.handing_out import HandingOut
from saepipe.harvest.pool_text import TextFolder
from saepipe.harvest.rows import WindowBatch

NUM_BATCHES, CONTEXT, PER_POOL = 64, 16, 16
CONFIG = HarvestConfig.parse(
    {"num_tokens": NUM_BATCHES * CONTEXT, "shard_rows": PER_POOL * CONTEXT, "chunk_rows": 16, "pool_shards": 1}
)


class CountedTexts(TextFolder):
    """A folder of texts that counts how often it is listed."""

    listings = 0

    def num_waiting(self) -> int:
        self.listings += 1
        return super().num_waiting()


def batches() -> Iterator[WindowBatch]:
    ids = np.ones((1, CONTEXT), np.int32)
    return (WindowBatch(number, ids, ids) for number in range(NUM_BATCHES))


def reading_of(train_batches: Callable[[], Iterator[WindowBatch]]) -> Any:
    """Returns a reading of these batches, without a held-out part."""
    no_batches: Callable[[], Iterator[WindowBatch]] = lambda: iter(())  # noqa: E731
    heldout = {"fill_heldout": lambda: None, "num_heldout_windows": 0, "heldout_batches": no_batches}
    return SimpleNamespace(train_batches=train_batches, **heldout)


def test_texts_are_listed_once_a_pool(tmp_path: Path) -> None:
    lm: Any = SimpleNamespace(special_ids=frozenset({0}))
    reading = reading_of(batches)
    texts = CountedTexts(tmp_path)
    with HandingOut(CONFIG, lm, reading, texts, {"train": {1}, "heldout": set()}, lambda: None, 100) as handing_out:
        handing_out.wait()
    num_pools = NUM_BATCHES // PER_POOL
    assert handing_out.num_pools == {"train": num_pools, "heldout": 0}
    assert texts.num_waiting() == num_pools - 1  # one is stored already
    assert texts.listings == num_pools


def test_the_reading_pauses_while_texts_wait(tmp_path: Path) -> None:
    texts, most, waiting = TextFolder(tmp_path), 2, list[int]()

    def watched() -> Iterator[WindowBatch]:
        for batch in batches():
            waiting.append(texts.num_waiting())
            yield batch

    lm: Any = SimpleNamespace(special_ids=frozenset({0}))
    reading = reading_of(watched)
    with HandingOut(CONFIG, lm, reading, texts, {"train": set(), "heldout": set()}, lambda: None, most) as handing_out:
        for pool in range(NUM_BATCHES // PER_POOL):
            text = texts.take("train", pool, handing_out.look)
            assert text is not None
            assert text.begin.pools == pool
        handing_out.wait()
    assert len(waiting) == NUM_BATCHES
    assert max(waiting) < most
