"""Members of a sharing see the rows of the stream; one decodes them, and whoever is left goes on without it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore

from saepipe.data.batches import shared_pools
from saepipe.data.batches.shared_pools import Sharing
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.mapped_rows import MappedRows

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that grows by each chunk that is decoded."""
    names: list[str] = []
    read = MappedRows.read_chunk

    def noted(self: MappedRows, chunk: int, out: object) -> None:
        names.append("a chunk")
        read(self, chunk, out)  # type: ignore[arg-type]

    monkeypatch.setattr(MappedRows, "read_chunk", noted)
    return names


def members(cache: Path, counts: list[int], look: Callable[[], None] = lambda: None) -> list[list[torch.Tensor]]:
    """Returns what each member has read: as many batches as `counts` says, all at once, in threads.

    `look` is called by each at its end, before it leaves.
    """
    store, read = HashStore(), [list[torch.Tensor]() for _ in counts]

    def run(member: int, count: int) -> None:
        sharing = Sharing(store, "stream", member, len(counts))
        stream = BatchStream(Cache.open(cache), HOOK, 100, 3, pool_chunks=4, threads=1)
        with stream, closing(stream.batches(5, sharing)) as batches:
            read[member] += islice(batches, count)
            look()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(counts)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)
    return read


def expected(cache: Path, count: int) -> list[torch.Tensor]:
    with BatchStream(Cache.open(cache), HOOK, 100, 3, pool_chunks=4) as stream:
        return list(islice(stream.batches(5), count))


def same(batches: list[torch.Tensor], others: list[torch.Tensor]) -> bool:
    return all(torch.equal(*pair) for pair in zip(batches, others, strict=True))


def test_all_members_see_the_stream_and_one_decodes_it(tiny_cache: Path, decoded: list[str]) -> None:
    whole = expected(tiny_cache, 200)
    alone = len(decoded)
    decoded.clear()
    assert all(same(read, whole) for read in members(tiny_cache, [200, 200, 200]))
    assert len(decoded) <= alone + 8  # the pool after the last may have been begun


@pytest.mark.parametrize("counts", [[30, 200, 90], [1, 120, 120], [200, 1, 10]])
def test_members_that_leave_hold_nobody_up(tiny_cache: Path, counts: list[int]) -> None:
    whole = expected(tiny_cache, 200)
    for count, read in zip(counts, members(tiny_cache, counts), strict=True):
        assert same(read, whole[:count])


def test_where_shared_memory_is_full_each_member_decodes(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    whole = expected(tiny_cache, 60)
    assert all(same(read, whole) for read in members(tiny_cache, [60, 60]))


def test_shared_memory_has_no_name_once_all_have_mapped_it(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a member that is killed leaves nothing behind."""
    monkeypatch.setattr(shared_pools, "_SHARED_MEMORY", tmp_path)
    found: list[list[Path]] = []
    assert all(map(len, members(tiny_cache, [200, 200], lambda: found.append(list(tmp_path.iterdir())))))
    assert found == [[], []]
    assert list(tmp_path.iterdir()) == []
