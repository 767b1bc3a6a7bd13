"""Pools behind the head of a rolling cache: the bytes of a whole cache's pools, made in order while there is room."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import numpy as np
import pytest

from helpers.interrupted_harvests import changed
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError, LockedError
from saepipe.data.folders.artifact import file_lock
from saepipe.data.rolling.rolling_folder import RollingFolder
from saepipe.data.terminal.progress import Silent
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.rolling import harvest_pools
from saepipe.harvest.rolling_writer import RollingWriter
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.rows import WindowBatch
from saepipe.harvest.run import harvest

POOL_ROWS = 4096


@pytest.fixture(scope="module")
def head(toy_config: HarvestConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = changed(toy_config, num_tokens=POOL_ROWS, fill_heldout=True)
    return harvest(config, tmp_path_factory.mktemp("rolling") / "head").path


@pytest.fixture
def folder(head: Path, tmp_path: Path) -> RollingFolder:
    folder = RollingFolder(tmp_path / "stream")
    folder.path.mkdir()
    folder.head.symlink_to(head)
    folder.need_from(1)
    return folder


def assert_pools_are_those_of(whole: Cache, folder: RollingFolder, numbers: list[int]) -> None:
    """Compares every array of the training rows with that of the whole cache."""
    for number in numbers:
        pool, start = Cache.open(folder.pool(number)), number * POOL_ROWS
        for name in pool.layout.row_arrays("train"):
            rows = pool.array(name)
            assert np.array_equal(rows.read(0, rows.num_rows), whole.array(name).read(start, start + rows.num_rows)), (
                number,
                name,
            )


def test_pools_are_those_of_a_whole_cache(folder: RollingFolder, toy_cache: Path, toy_config: HarvestConfig) -> None:
    harvest_pools(folder, toy_config, most_pools=2, progress=Silent())
    whole = Cache.open(toy_cache)
    assert folder.stored() == [1, 2]
    assert_pools_are_those_of(whole, folder, [1, 2])
    listed = [line for line in whole.lines if line["kind"] == "pool" and line["split"] == "train"]
    assert [{**line, "files": {}} for line in folder.lines()] == listed
    assert [Cache.open(folder.pool(number)).num_tokens for number in (1, 2)] == [4096, 12_000 - 8192]


@contextmanager
def harvesting(folder: RollingFolder, config: HarvestConfig, most_pools: int) -> Iterator[Thread]:
    thread = Thread(target=harvest_pools, args=(folder, config, most_pools, Silent()))
    thread.start()
    yield thread
    thread.join(60)
    assert not thread.is_alive()


def test_a_pool_is_written_when_there_is_room(folder: RollingFolder, toy_config: HarvestConfig) -> None:
    with harvesting(folder, changed(toy_config, num_tokens=16_384), most_pools=2):
        for needed in (1, 2):
            while not folder.is_made(needed + 1):
                sleep(0.01)
            sleep(0.3)
            assert folder.stored() == [needed, needed + 1]  # the third is in memory
            folder.need_from(needed + 1)
    assert folder.stored() == [3]


def test_a_harvest_goes_on_at_the_first_pool_that_is_needed(
    folder: RollingFolder, toy_cache: Path, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Cache.open(toy_cache)
    harvest_pools(folder, changed(toy_config, num_tokens=2 * toy_config.pool_rows), most_pools=4, progress=Silent())
    assert folder.stored() == [1]
    passes = counted_passes(monkeypatch)
    folder.need_from(2)
    harvest_pools(folder, toy_config, most_pools=4, progress=Silent())
    assert folder.stored() == [2]
    assert passes == [64, 80]  # windows; the first batch has rows of the pool before, too
    assert_pools_are_those_of(whole, folder, [2])

    folder.need_from(1)  # as an earlier checkpoint does
    harvest_pools(folder, toy_config, most_pools=4, progress=Silent())
    assert passes[2:] == [32, 48, 64]
    assert_pools_are_those_of(whole, folder, [1, 2])


def counted_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Returns a list that receives the number of the first window of each pass."""
    run, passes = RowSource._run, []

    def counted(self: RowSource, batch: WindowBatch) -> Any:
        passes.append(batch.first)
        return run(self, batch)

    monkeypatch.setattr(RowSource, "_run", counted)
    return passes


def test_pools_without_room_or_of_another_length_are_made_again(
    folder: RollingFolder, toy_cache: Path, toy_config: HarvestConfig
) -> None:
    harvest_pools(folder, changed(toy_config, num_tokens=10_000), most_pools=2, progress=Silent())
    (folder.pool(1) / "COMMITTED").unlink()
    shutil.copytree(folder.pool(2), folder.pool(5))
    harvest_pools(folder, toy_config, most_pools=2, progress=Silent())
    assert folder.stored() == [1, 2]
    assert_pools_are_those_of(Cache.open(toy_cache), folder, [1, 2])


def test_another_text_is_refused(folder: RollingFolder, toy_config: HarvestConfig) -> None:
    line = next(line for line in Cache.open(folder.head).lines if line["kind"] == "pool")
    folder.add_line({**line, "pool": 1, "batches": 5, "text": "of another text"}, rank=0)
    with pytest.raises(ConfigError, match="the text of 'toy', or its tokenizer, has changed since training pool 1"):
        harvest_pools(folder, toy_config, most_pools=2, progress=Silent())


def test_a_pool_that_is_passed_while_it_is_looked_at_is_not_missing(
    folder: RollingFolder, toy_config: HarvestConfig
) -> None:
    class Passing(RollingFolder):
        """A folder whose training passes each pool just before someone looks at it."""

        def is_made(self, number: int) -> bool:
            self.need_from(number + 1)
            return super().is_made(number)

    harvest_pools(folder, toy_config, most_pools=2, progress=Silent())
    head = Cache.open(folder.head)
    sizes = {"train": POOL_ROWS, "heldout": POOL_ROWS}
    limits = {"most_pools": 2, "threads": 1, "rank": 0}
    with closing(RollingWriter(Passing(folder.path), head.layout, sizes, head.attributes, **limits)) as writer:
        assert [line["pool"] for line in writer.pools("train")] == [0, 1, 2]


def test_an_earlier_harvest_that_does_not_end_is_named(
    folder: RollingFolder, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saepipe.harvest.rolling.LOCK_SECONDS", 0.1)
    with file_lock(folder.lock(0), timeout=0), pytest.raises(LockedError, match="another harvest of this stream holds"):
        harvest_pools(folder, toy_config, most_pools=2, progress=Silent())
