"""Ctrl-C and SIGTERM in a harvest: the pool that is being written is kept, and the harvest goes on after it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from helpers.interrupted_harvests import changed, contents
from saepipe.data.errors import Stopped
from saepipe.data.folders.artifact import read_manifest
from saepipe.data.terminal.progress import Silent
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest


class StoppedAfterTheFirstPool(Silent):
    """Sends a signal to this process in the forward pass after the one that filled the first pool."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.rows = number, 0

    def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
        if self.rows > 4096:
            os.kill(os.getpid(), self.number)
        self.rows += amount


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Stopped)])
def test_a_signal_costs_no_written_pool(
    number: int, expected: type[BaseException], toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path
) -> None:
    def raise_stopped(*_: object) -> None:
        raise Stopped("stopped by SIGTERM", hint="")

    before = signal.signal(signal.SIGTERM, raise_stopped)  # as the command line does
    progress = StoppedAfterTheFirstPool(number)
    try:
        with pytest.raises(expected):
            harvest(changed(toy_config, encoders=1), tmp_path / "cache", progress=progress)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert progress.said[-1].startswith("kept 4,096 of 12,000 training tokens and 0 held-out positions in ")
    pools = [line["pool"] for line in read_manifest(tmp_path / "cache") if line["kind"] == "pool"]
    assert pools == [0]
    assert not list((tmp_path / "cache").rglob("*.partial"))
    harvest(toy_config, tmp_path / "cache")
    assert contents(tmp_path / "cache").keys() == contents(toy_cache).keys()
    changing = {"zarr.json", "manifest.jsonl", "COMMITTED"}
    assert {name: data for name, data in contents(tmp_path / "cache").items() if name not in changing} == {
        name: data for name, data in contents(toy_cache).items() if name not in changing
    }
