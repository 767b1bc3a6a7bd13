"""A cache in memory: refused before decoding if it does not fit, checked chunk by chunk, freed when closed."""

from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path

import pytest
import torch

from helpers.late_copies import LateCopies, LateMemory
from saepipe.data.batches import staging_memory
from saepipe.data.batches.resident import ResidentRows, row_numbers
from saepipe.data.batches.shuffle import Pool
from saepipe.data.batches.staging_memory import to_bits
from saepipe.data.batches.stream import BatchStream
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import ConfigError, CorruptDataError, OutOfSpaceError
from saepipe.data.terminal.progress import Silent

pytestmark = pytest.mark.quick

HOOK = "blocks.1.hook_resid_post"
NUM_ROWS, CHUNK_ROWS, D_IN = 8200, 256, 24
DECODED = 33 * CHUNK_ROWS * D_IN * 2  # bytes; the last of 33 chunks holds 8 rows


class RecordedProgress(Silent):
    """Records what a progress bar would show."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.advanced = 0

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self.lines.append(f"{task}: {total} {unit}")

    def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
        self.advanced += amount

    def finish(self) -> None:
        self.lines.append("finished")


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_chunk(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(MappedRows, "read_chunk", read_chunk)


def device(free: float, buffers: int = 3) -> tuple[LateCopies, LateMemory]:
    copies = LateCopies(free)
    return copies, LateMemory(copies, CHUNK_ROWS, D_IN, buffers)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0, 1.1])
def test_a_cache_that_does_not_fit_is_refused_before_decoding(
    tiny_cache: Path, no_decoding: None, monkeypatch: pytest.MonkeyPatch, share: float
) -> None:
    """Nine tenths of the free memory may be used."""
    monkeypatch.setattr(staging_memory, "free_ram", lambda: share * DECODED)
    with pytest.raises(OutOfSpaceError, match=f"{HOOK} needs 0.000406 GB, but may use only .* GB in RAM") as caught:
        BatchStream(Cache.open(tiny_cache), HOOK, 300, 0, resident="ram")
    assert caught.value.exit_code == 5
    with pytest.raises(OutOfSpaceError, match="may use only .* GB in cpu"):
        ResidentRows(Cache.open(tiny_cache).rows(HOOK), device(share * DECODED)[1], 2, Silent())


def test_a_cache_that_fits_is_decoded(tiny_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging_memory, "free_ram", lambda: 1.12 * DECODED)
    with BatchStream(Cache.open(tiny_cache), HOOK, 300, 0, resident="ram") as stream:
        assert next(stream.batches()).shape == (300, D_IN)


def test_resident_gpu_without_a_gpu_is_refused(tiny_cache: Path, no_decoding: None) -> None:
    with pytest.raises(ConfigError, match=r"the device is cpu\n  hint: resident: ram"):
        BatchStream(Cache.open(tiny_cache), HOOK, 300, 0, resident="gpu")


@pytest.mark.parametrize("memory", ["none", "ram", "device"])
def test_each_chunk_is_checked(tiny_cache: Path, tmp_path: Path, memory: str) -> None:
    """A flipped bit is an error that names the shard, in any memory; no thread is left behind."""
    path = shutil.copytree(tiny_cache, tmp_path / "cache")
    shard = path / "acts" / HOOK / "c" / "2" / "0"
    damaged = bytearray(shard.read_bytes())
    damaged[len(damaged) // 2] ^= 4
    shard.write_bytes(damaged)

    def read_all() -> None:
        if memory == "device":
            ResidentRows(Cache.open(path).rows(HOOK), device(1e9, buffers=1)[1], 2, Silent())
        with BatchStream(Cache.open(path), HOOK, 820, 0, resident=memory, pool_chunks=3) as stream:
            list(islice(stream.batches(), 10))

    with pytest.raises(CorruptDataError, match=f"{HOOK}/c/2/0 has a damaged chunk"):
        read_all()


def test_all_rows_are_in_stored_order(tiny_cache: Path) -> None:
    rows = Cache.open(tiny_cache).rows(HOOK)
    for staging in (staging_memory.HostMemory(), device(1e9)[1]):
        progress = RecordedProgress()
        resident = ResidentRows(rows, staging, 3, progress)
        assert resident._memory is not None
        assert (to_bits(resident._memory)[:NUM_ROWS] == rows.read(0, NUM_ROWS)).all()
        assert progress.lines == [f"decode acts/{HOOK} into {staging.name}: {NUM_ROWS} rows", "finished"]
        assert progress.advanced == NUM_ROWS


def test_few_chunks_are_pinned_while_copied_to_a_device(tiny_cache: Path) -> None:
    """As many copies are in flight as there are buffers: decoding neither waits for each nor pins the whole cache."""
    copies, staging = device(1e9, buffers=4)
    ResidentRows(Cache.open(tiny_cache).rows(HOOK), staging, 1, Silent())
    assert copies.most_pending == 4


def test_row_numbers_follow_the_chunks_of_a_pool() -> None:
    pool = Pool(seed=0, epoch=0, number=0, chunks=(3, 0, 4), num_rows=9, skip=0)
    assert row_numbers(pool, 4).tolist() == [12, 13, 14, 15, 0, 1, 2, 3, 16]


def test_closing_frees_the_memory(tiny_cache: Path) -> None:
    stream = BatchStream(Cache.open(tiny_cache), HOOK, 300, 0, resident="ram")
    batches = stream.batches()
    batch = next(batches)
    before = batch.clone()
    batches.close()
    stream.close()
    assert stream._source._memory is None
    assert torch.equal(batch, before)
