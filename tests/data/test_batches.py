"""The batch stream: each row once an epoch, a pure function of position, equal whatever the codec."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch

from caches import structured_rows, write_cache
from saepipe.data.batches import BatchStream
from saepipe.data.cache import Cache

HOOK = "blocks.1.hook_resid_post"


def take(cache: Path, count: int, *, start: int = 0, batch_size: int = 300, seed: int = 1) -> list[torch.Tensor]:
    with BatchStream(Cache.open(cache), HOOK, batch_size, seed, pool_chunks=5) as stream:
        return list(islice(stream.batches(start), count))


def sorted_rows(x: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, x.float().tolist()))


def test_an_epoch_holds_each_row_once(tiny_cache: Path) -> None:
    epoch = torch.cat(take(tiny_cache, 41, batch_size=200))
    assert epoch.shape == (8200, 24)
    assert sorted_rows(epoch) == sorted_rows(structured_rows(8200, 24))


def test_order_differs_between_epochs_and_seeds(tiny_cache: Path) -> None:
    first = torch.cat(take(tiny_cache, 82, batch_size=200))
    assert not torch.equal(first[:8200], first[8200:])
    assert sorted_rows(first[:8200]) == sorted_rows(first[8200:])
    assert not torch.equal(first[:200], take(tiny_cache, 1, batch_size=200, seed=2)[0])


@pytest.mark.parametrize("start", [1, 5, 27, 28, 60])
def test_resume_from_one_integer(tiny_cache: Path, start: int) -> None:
    whole = take(tiny_cache, start + 3)
    resumed = take(tiny_cache, 3, start=start)
    assert all(torch.equal(a, b) for a, b in zip(whole[start:], resumed, strict=True))


def test_uncompressed_gives_the_same_batches(tmp_path: Path, tiny_cache: Path) -> None:
    plain = write_cache(tmp_path / "cache", {HOOK: structured_rows(8200, 24)}, profile="none")
    for a, b in zip(take(plain, 40), take(tiny_cache, 40), strict=True):
        assert torch.equal(a, b)


def test_rows_are_mixed_across_the_pool(tiny_cache: Path) -> None:
    """A batch draws on many chunks, so neighbours in the cache are not neighbours in training."""
    rows = {row: i for i, row in enumerate(map(tuple, Cache.open(tiny_cache).rows(HOOK).read(0, 8200).tolist()))}
    batch = take(tiny_cache, 1)[0].view(torch.int16).numpy().view("uint16")
    chunks = {rows[tuple(row)] // 256 for row in batch.tolist()}
    assert len(chunks) == 5
