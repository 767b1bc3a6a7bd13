"""Rows that go on behind the head: those of each pool's own cache, in order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.rolling_pools import (
    CHUNK_ROWS,
    HOOKS,
    NUM_ROWS,
    POOL_ROWS,
    begun_folder,
    make_pool,
    rolling_cache,
    stored_rows,
)
from saepipe.data.batches.shuffle import permutation
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.codecs import Profile


def test_rows_are_those_of_the_pools_in_order(tmp_path: Path) -> None:
    folder = begun_folder(tmp_path / "stream")
    for number in (1, 2, 3):
        make_pool(folder, number)
    for hook in HOOKS:
        rows = rolling_cache(folder).rows(hook)
        assert (rows.num_rows, rows.num_chunks, rows.rows_in(28)) == (NUM_ROWS, 29, NUM_ROWS - 28 * CHUNK_ROWS)
        expected = np.concatenate([stored_rows(folder, number, hook) for number in range(4)])
        assert np.array_equal(rows.read(0, NUM_ROWS), expected)


def test_reading_ahead_waits_for_no_pool(tmp_path: Path) -> None:
    folder = begun_folder(tmp_path / "stream")
    rows = rolling_cache(folder).rows(HOOKS[0])
    for chunk in (0, 8, 28):
        rows.will_need(chunk)
    assert folder.stored() == [], "nothing but the head was there"


@pytest.mark.parametrize("profile", ["lossless", "none"])
def test_batches_are_shuffled_within_each_pool(tmp_path: Path, profile: Profile) -> None:
    """The formula: pools in order; in each, three chunks at a time in random order, with their rows permuted."""
    folder = begun_folder(tmp_path / "stream", profile)
    for number in (1, 2, 3):
        make_pool(folder, number, profile=profile)
    cache, expected, together = rolling_cache(folder), [], 0
    for number in range(4):
        rows = torch.from_numpy(np.concatenate([stored_rows(folder, number, hook) for hook in HOOKS], 1).view("int16"))
        chunks = rows.split(CHUNK_ROWS)
        order = permutation(len(chunks), 7, 0, number, 1).tolist()
        for first in range(0, len(order), 3):
            numbers = order[first : first + 3]
            numbers.sort(key=lambda chunk: len(chunks[chunk]) < CHUNK_ROWS)  # stable: only a short chunk moves
            pool = torch.cat([chunks[chunk] for chunk in numbers])
            expected.append(pool[permutation(len(pool), 7, 0, together)])
            together += 1
    with (
        cache.coming_from(0) as coming,
        BatchStream(cache, HOOKS, 100, 7, pool_chunks=3, stretch_rows=cache.pool_rows) as stream,
    ):
        batches = []
        for number, batch in enumerate(stream.batches(stop=37)):
            coming.pass_rows((number + 1) * 100)
            assert folder.stored() == [stored for stored in (1, 2, 3) if stored >= (number + 1) * 100 // POOL_ROWS]
            batches.append(batch)
    assert torch.equal(torch.cat(batches).view(torch.int16), torch.cat(expected))
    assert (folder.needed(), folder.stored()) == (4, [])


def test_the_head_is_a_cache_by_itself(tmp_path: Path) -> None:
    cache = rolling_cache(folder := begun_folder(tmp_path / "stream"))
    head = Cache.open(folder.head)
    assert (cache.fingerprint, cache.path, cache.widths) == (head.fingerprint, folder.head, head.widths)
    assert (cache.num_tokens, head.num_tokens) == (NUM_ROWS, POOL_ROWS)
    assert np.array_equal(cache.stats(HOOKS[0]).mean, head.stats(HOOKS[0]).mean)
    assert torch.equal(cache.acts(HOOKS[0])[:50], head.acts(HOOKS[0])[:50])
