"""Cached rows indexed as in a notebook."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.made_caches import structured_rows, write_cache
from saepipe.data.batches.shuffle import permutation
from saepipe.data.cache.cache import Cache, open_cache
from saepipe.data.errors import ConfigError

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def stored(tiny_cache: Path) -> torch.Tensor:
    """(8200, 24): all rows of the cache, read through another interface."""
    bits = Cache.open(tiny_cache).rows(HOOK).read(0, 8200)
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


@pytest.mark.parametrize(
    "index",
    [
        slice(0, 10),
        slice(250, 260),  # across the end of a chunk
        slice(2040, 4100),  # across the end of a shard
        slice(-7, None),
        slice(None, None, 1000),
        slice(20, 5, -3),
        slice(5, 5),
        slice(9, 2),
        [8199, 0, 4096, 0, -1],
        np.array([3, 300, 3000]),
        torch.tensor([5, 1]),
        [],
    ],
    ids=str,
)
def test_indexing_returns_the_stored_rows(tiny_cache: Path, stored: torch.Tensor, index: slice | list[int]) -> None:
    numpy = stored.view(torch.int16).numpy()
    expected = numpy[np.asarray(index, dtype=np.int64) if not isinstance(index, slice) else index]
    rows = open_cache(tiny_cache)[index]
    assert rows.dtype == torch.bfloat16
    assert np.array_equal(rows.view(torch.int16).numpy(), expected)


def test_one_row_and_a_mask(tiny_cache: Path, stored: torch.Tensor) -> None:
    acts = open_cache(tiny_cache).acts()
    assert acts.shape == (8200, 24)
    assert len(acts) == 8200
    assert torch.equal(acts[-1], stored[-1])
    assert torch.equal(acts[np.int64(17)], stored[17])
    mask = torch.zeros(8200, dtype=torch.bool)
    mask[[2, 4000]] = True
    assert torch.equal(acts[mask], stored[mask])
    assert torch.equal(next(iter(acts)), stored[0])


@pytest.mark.parametrize("index", [8200, -8201, [0, 9000]])
def test_a_row_number_out_of_range_is_refused(tiny_cache: Path, index: int | list[int]) -> None:
    with pytest.raises(ConfigError, match="there is no row"):
        open_cache(tiny_cache)[index]


def test_an_index_that_is_not_integer_is_refused(tiny_cache: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot index rows with float64 of shape \(2,\)"):
        open_cache(tiny_cache)[np.array([0.5, 1.5])]
    with pytest.raises(ConfigError, match="cannot index rows with bool"):
        open_cache(tiny_cache)[np.array([True, False])]


def test_a_cache_with_several_hooks_needs_a_hook(toy_cache: Path) -> None:
    cache = open_cache(toy_cache)
    with pytest.raises(ConfigError, match="2 hooks"):
        cache[:3]
    assert cache.acts("blocks.2.hook_resid_post")[:3].shape == (3, 128)
    with pytest.raises(ConfigError, match="no hook 'blocks.9'"):
        cache.acts("blocks.9")


def test_int8_rows_are_returned_as_bfloat16(tmp_path: Path) -> None:
    rows = structured_rows(600, 24)
    cache = open_cache(write_cache(tmp_path / "cache", {HOOK: rows}, profile="int8", snr_floor=0.0))
    order = permutation(600, 0, 0)
    x_hat = cache[[0, 500]]
    assert x_hat.dtype == torch.bfloat16
    assert torch.allclose(x_hat.float(), rows[order[[0, 500]]].float(), atol=0.1)
