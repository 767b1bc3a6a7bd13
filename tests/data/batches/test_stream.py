"""The batch stream: each row once per epoch, a pure function of position, equal for every kind of staging memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers.late_copies import LateCopies, LateMemory
from helpers.made_caches import structured_rows, write_cache
from saepipe.data.batches import stream as stream_module
from saepipe.data.batches.memory import Resident
from saepipe.data.batches.shuffle import permutation, pools
from saepipe.data.batches.staging_memory import HostMemory
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.workers import Workers

HOOK = "blocks.1.hook_resid_post"
NUM_ROWS, CHUNK_ROWS, D_IN = 8200, 256, 24
CASES = (
    *("streamed", "mapped", "ram", "late device", "late device, resident"),
    *(pytest.param(name, marks=pytest.mark.cuda) for name in ("cuda", "cuda, resident", "cuda, ram")),
)


@pytest.fixture(scope="module")
def uncompressed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rows of `tiny_cache`, uncompressed."""
    folder = tmp_path_factory.mktemp("plain") / "cache"
    return write_cache(folder, {HOOK: structured_rows(NUM_ROWS, D_IN)}, profile="none")


@pytest.fixture(params=CASES)
def case(
    request: pytest.FixtureRequest, tiny_cache: Path, uncompressed: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, Any]]:
    """A cache, and the settings of its stream."""
    name = request.param
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if name.startswith("late"):
        copies = LateCopies()
        monkeypatch.setattr(stream_module, "staging_memory", lambda *_: LateMemory(copies, CHUNK_ROWS, D_IN, 3))
    settings = {
        "ram": {"resident": "ram"},
        "late device, resident": {"resident": "ram"},
        "cuda": {"device": torch.device("cuda")},
        "cuda, resident": {"device": torch.device("cuda"), "resident": "gpu"},
        "cuda, ram": {"device": torch.device("cuda"), "resident": "ram"},
    }
    return uncompressed if name == "mapped" else tiny_cache, settings.get(name, {})


def take(cache: Path, count: int, *, start: int = 0, batch_size: int = 300, seed: int = 1, **more: Any) -> torch.Tensor:
    """`count` batches, (count * batch_size, d_in)."""
    with BatchStream(Cache.open(cache), HOOK, batch_size, seed, **{"pool_chunks": 5, **more}) as stream:
        batches = list(islice(stream.batches(start), count))
    assert [len(batch) for batch in batches] == [batch_size] * count
    return torch.cat(batches).cpu()


def defined_rows(rows: torch.Tensor, chunk_rows: int, pool_chunks: int, seed: int) -> Iterator[torch.Tensor]:
    """Yields the rows of the endless stream one by one, as the module's docstring defines it."""
    chunks = rows.split(chunk_rows)
    epoch = 0
    while True:
        order = permutation(len(chunks), seed, epoch).tolist()
        for pool, first in enumerate(range(0, len(order), pool_chunks)):
            numbers = order[first : first + pool_chunks]
            numbers.sort(key=lambda number: number == len(chunks) - 1)  # stable: only the cache's last chunk moves
            together = torch.cat([chunks[number] for number in numbers])
            yield from together[permutation(len(together), seed, epoch, pool)]
        epoch += 1


def bits(x: torch.Tensor) -> torch.Tensor:
    return x.contiguous().view(torch.int16)


def sorted_rows(x: torch.Tensor) -> list[tuple[float, ...]]:
    return sorted(map(tuple, x.float().tolist()))


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(0, 40),
    batch_size=st.sampled_from([1, 7, 256, 300, 1280, 3000]),
    pool_chunks=st.sampled_from([1, 2, 5, 33, 64]),
    threads=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_every_case_gives_the_defined_rows(
    case: tuple[Path, dict[str, Any]], start: int, batch_size: int, pool_chunks: int, threads: int, seed: int
) -> None:
    cache, settings = case
    count = max(1, 2000 // batch_size)
    order = {"start": start, "batch_size": batch_size, "pool_chunks": pool_chunks, "seed": seed}
    taken = take(cache, count, threads=threads, **order, **settings)
    rows = torch.from_numpy(Cache.open(cache).rows(HOOK).read(0, NUM_ROWS).view("int16"))
    stream = defined_rows(rows, CHUNK_ROWS, min(pool_chunks, 33), seed)
    expected = torch.stack(list(islice(stream, start * batch_size, (start + count) * batch_size)))
    assert torch.equal(bits(taken), expected)


def test_a_stretch_comes_after_the_one_before(case: tuple[Path, dict[str, Any]]) -> None:
    cache, settings = case
    taken = take(cache, 40, batch_size=410, pool_chunks=3, stretch_rows=2048, **settings)
    rows = structured_rows(NUM_ROWS, D_IN)
    stored = torch.from_numpy(Cache.open(cache).rows(HOOK).read(0, NUM_ROWS).view("int16")).view(torch.bfloat16)
    assert sorted_rows(stored) == sorted_rows(rows)
    first, second = (epoch.split(2048) for epoch in taken.split(NUM_ROWS))
    for one, other, expected in zip(first, second, stored.split(2048), strict=True):
        assert sorted_rows(one) == sorted_rows(other) == sorted_rows(expected)
    assert not torch.equal(first[0], second[0])
    later = take(cache, 5, start=30, batch_size=410, pool_chunks=3, stretch_rows=2048, **settings)
    assert torch.equal(bits(later), bits(taken[30 * 410 : 35 * 410]))


def test_nothing_is_read_beyond_the_pool_of_the_last_batch(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    read_chunk = MappedRows.read_chunk

    def noted(self: MappedRows, chunk: int, out: np.ndarray) -> None:
        read.append(chunk)
        read_chunk(self, chunk, out)

    monkeypatch.setattr(MappedRows, "read_chunk", noted)
    with BatchStream(Cache.open(tiny_cache), HOOK, 100, 1, pool_chunks=2) as stream:
        batches = list(stream.batches(3, stop=9))
    expected = [chunk for pool in islice(pools(NUM_ROWS, CHUNK_ROWS, 2, 1, 300), 2) for chunk in pool.chunks]
    assert sorted(read) == sorted(expected)
    assert torch.equal(torch.cat(batches[:6]), take(tiny_cache, 6, start=3, batch_size=100, pool_chunks=2))


def test_every_case_over_three_epochs(case: tuple[Path, dict[str, Any]], tiny_cache: Path) -> None:
    cache, settings = case
    taken = take(cache, 60, batch_size=410, pool_chunks=4, **settings)
    assert torch.equal(bits(taken), bits(take(tiny_cache, 60, batch_size=410, pool_chunks=4)))
    for epoch in taken.split(NUM_ROWS):
        assert sorted_rows(epoch) == sorted_rows(structured_rows(NUM_ROWS, D_IN))


def test_an_int8_cache_is_streamed_like_any_other(tmp_path: Path) -> None:
    cache = write_cache(tmp_path / "cache", {HOOK: structured_rows(1100, D_IN)}, profile="int8")
    streamed, resident = (take(cache, 11, resident=resident) for resident in ("none", "ram"))
    assert torch.equal(streamed, resident)
    stored = torch.from_numpy(Cache.open(cache).rows(HOOK).read(0, 1100).view("int16"))
    expected = torch.stack(list(islice(defined_rows(stored, CHUNK_ROWS, 5, 1), 3300)))
    assert torch.equal(bits(streamed), expected)


@pytest.mark.parametrize("resident", ["none", "ram"])
def test_batches_are_on_the_device(tiny_cache: Path, resident: Resident) -> None:
    """Even if rows wait in host memory; `meta` stands for a device without staging memory."""
    device = torch.device("meta")
    with BatchStream(Cache.open(tiny_cache), HOOK, 300, 1, device=device, resident=resident) as stream:
        assert [batch.device.type for batch in islice(stream.batches(), 3)] == ["meta"] * 3


def test_batches_handed_out_stay_unchanged(case: tuple[Path, dict[str, Any]]) -> None:
    cache, settings = case
    with BatchStream(Cache.open(cache), HOOK, 300, 1, pool_chunks=2, **settings) as stream:
        batches = list(islice(stream.batches(), 40))
        copies = [batch.clone() for batch in batches]
        again = list(islice(stream.batches(), 40))
    for batch, copied, repeated in zip(batches, copies, again, strict=True):
        assert torch.equal(batch, copied)
        assert torch.equal(batch, repeated)


def test_two_iterators_of_a_stream_do_not_interfere(case: tuple[Path, dict[str, Any]]) -> None:
    cache, settings = case
    with BatchStream(Cache.open(cache), HOOK, 300, 1, pool_chunks=2, **settings) as stream:
        alone = list(islice(stream.batches(), 12))
        left, right = stream.batches(), stream.batches(3)
        pairs = [(next(left), next(right)) for _ in range(9)]
    for number, (first, second) in enumerate(pairs):
        assert torch.equal(first, alone[number])
        assert torch.equal(second, alone[number + 3])


def test_a_closed_iterator_stops_decoding(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the next iterator can reuse its buffers, and starting a run decodes no chunks that nobody reads."""
    running, started, cancelled = [], [], Event()
    first_pool = next(pools(NUM_ROWS, CHUNK_ROWS, 11, 1, 0)).chunks

    class BlockedMemory(HostMemory):
        """Fills the first pool; every fill of the next one lasts until the parts that wait have been cancelled."""

        def fill(self, rows: MappedRows, chunk: int, out: torch.Tensor) -> None:
            started.append(chunk)
            running.append(chunk)
            assert chunk in first_pool or cancelled.wait(60)
            super().fill(rows, chunk, out)
            running.remove(chunk)

    wait = Workers.wait

    def wait_for_running(workers: Workers, parts: list[Future[None]]) -> None:
        cancelled.set()
        wait(workers, parts)

    expected = take(tiny_cache, 1, pool_chunks=11)
    monkeypatch.setattr(stream_module, "staging_memory", lambda *_: BlockedMemory())
    monkeypatch.setattr(Workers, "wait", wait_for_running)
    with BatchStream(Cache.open(tiny_cache), HOOK, 300, 1, pool_chunks=11, threads=2) as stream:
        for _ in range(3):
            started.clear()
            cancelled.clear()
            batches = stream.batches()
            assert torch.equal(next(batches), expected)
            batches.close()
            assert not running
            assert 11 <= len(started) <= 11 + 2  # one part of the next pool per thread, however fast the threads are
        assert len(stream._source._spare) == 2


def test_order_differs_between_epochs_and_seeds(tiny_cache: Path) -> None:
    first = take(tiny_cache, 82, batch_size=200)
    assert not torch.equal(first[:NUM_ROWS], first[NUM_ROWS:])
    assert not torch.equal(first[:200], take(tiny_cache, 1, batch_size=200, seed=2))


def test_rows_are_mixed_across_the_pool(tiny_cache: Path) -> None:
    """A batch takes rows from many chunks, so neighbours in the cache are not neighbours in training."""
    rows = {row: i for i, row in enumerate(map(tuple, Cache.open(tiny_cache).rows(HOOK).read(0, NUM_ROWS).tolist()))}
    batch = take(tiny_cache, 1).view(torch.int16).numpy().view("uint16")
    chunks = {rows[tuple(row)] // CHUNK_ROWS for row in batch.tolist()}
    assert len(chunks) == 5
