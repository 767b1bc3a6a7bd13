"""Rows of several hooks side by side: equal to those of each hook, in every kind of memory."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.made_caches import structured_rows, write_cache
from saepipe.data.batches.memory import Resident
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.joined_rows import JoinedRows, joined
from saepipe.data.errors import ConfigError

X, Y = "blocks.1.hook_mlp_in", "blocks.1.hook_mlp_out"
NUM_ROWS, WIDTHS = 1000, {X: 24, Y: 20}


@pytest.fixture(scope="module", params=["lossless", "none", "int8"])
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    profile: Profile = request.param
    rows = {hook: structured_rows(NUM_ROWS, width, seed) for seed, (hook, width) in enumerate(WIDTHS.items())}
    return Cache.open(write_cache(tmp_path_factory.mktemp(profile) / "cache", rows, profile=profile))


@pytest.mark.parametrize("resident", ["none", "ram"])
def test_a_batch_has_the_same_tokens_at_every_hook(cache: Cache, resident: Resident) -> None:
    def batches(*hooks: str) -> list[torch.Tensor]:
        with BatchStream(cache, hooks, 300, seed=4, resident=resident, pool_chunks=2) as stream:
            return list(islice(stream.batches(1), 5))  # beyond the end of the first epoch

    for both, x, y in zip(batches(X, Y), batches(X), batches(Y), strict=True):
        assert both.shape == (300, 44)
        assert torch.equal(both, torch.cat([x, y], dim=1))


def test_rows_are_read_in_stored_order(cache: Cache) -> None:
    rows = joined([cache.rows(Y), cache.rows(X)])
    assert (rows.num_rows, rows.width) == (NUM_ROWS, 44)
    assert X in rows.name
    assert Y in rows.name
    expected = np.concatenate([cache.rows(hook).read(250, 600) for hook in (Y, X)], axis=1)
    assert np.array_equal(rows.read(250, 600), expected)


def test_one_hook_is_not_joined(cache: Cache) -> None:
    rows = cache.rows(X)
    assert joined([rows]) is rows


def test_rows_of_other_tokens_are_refused(tmp_path: Path) -> None:
    parts = [
        Cache.open(write_cache(tmp_path / str(num_rows), {X: structured_rows(num_rows, 24)})).rows(X)
        for num_rows in (300, 301)
    ]
    with pytest.raises(ConfigError, match=r"301 rows in chunks of 256, .* has 300 in chunks of 256"):
        JoinedRows(parts)
