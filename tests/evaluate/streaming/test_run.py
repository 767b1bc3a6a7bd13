"""Trainings fed by a harvest beside them: the bits of training from a whole cache, whatever interrupts them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

import saepipe as sp
from helpers.killed_training import Killed
from saepipe.data.errors import ConfigError, MachineError, Stopped
from saepipe.data.remote.places import folder_of
from saepipe.data.rolling.rolling_folder import RollingFolder
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.streaming.run import open_stream
from saepipe.train.config import TrainConfig
from saepipe.train.config_sections import StreamConfig
from saepipe.train.run import train

Make = Callable[..., TrainConfig]
POOL_BYTES = 4096 * (2 * 256 + 8 + 12)
"""Of the rows of a full pool: two hooks of 128 channels, two norms, a context and a position."""


class Watch(Silent):
    """Notes the most bytes and pools that the stream has on disk, and calls `then` after a number of steps."""

    def __init__(self, out: Path, steps: int = 0, then: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.folder, self.steps, self.then = RollingFolder(out / "stream"), steps, then
        self.most_bytes = self.most_pools = 0

    def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
        self.most_bytes = max(self.most_bytes, size_of(self.folder.pools))
        self.most_pools = max(self.most_pools, len(self.folder.stored()))
        if amount == 128:  # a step, not a pass of the head's harvest
            self.steps -= 1
            if self.steps == 0:
                self.then()


def size_of(folder: Path) -> int:
    """Returns the bytes of all files below a folder in which another process writes."""
    num_bytes = 0
    for name, _, files in os.walk(folder):  # it passes over folders that are gone
        for file in files:
            with suppress(FileNotFoundError):
                num_bytes += os.stat(Path(name, file)).st_size
    return num_bytes


def crash() -> None:
    raise Killed


def weights(runs: list[Path]) -> list[bytes]:
    return [(run / "sae" / "sae_weights.safetensors").read_bytes() for run in runs]


def from_whole_cache(config: Make, toy_cache: Path, out: Path) -> list[bytes]:
    return weights(train(config(cache=str(toy_cache), stream=None, shuffle="pool"), out / "whole"))


def streamed(config: TrainConfig, out: Path, progress: Silent) -> list[Path]:
    return train(config, out, progress=progress, open_stream=open_stream)


def harvests_into(folder: Path) -> list[int]:
    """Returns the processes that harvest into a folder."""
    commands = {int(path.parent.name): path for path in Path("/proc").glob("[0-9]*/cmdline")}
    return [number for number, path in commands.items() if f"saepipe\0stream\0{folder}\0" in _text(path)]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def test_a_crashed_training_ends_in_the_bits_of_a_whole_cache(config: Make, toy_cache: Path, tmp_path: Path) -> None:
    """It crashes in its third pool, and goes on at a checkpoint in the second, which is gone by then."""
    out, watch = tmp_path / "runs", Watch(tmp_path / "runs", 70, crash)
    with pytest.raises(Killed):
        streamed(config(), out, watch)
    assert harvests_into(out / "stream") == []
    assert RollingFolder(out / "stream").needed() == 2
    runs = streamed(config(), out, watch)
    assert weights(runs) == from_whole_cache(config, toy_cache, tmp_path)
    assert RollingFolder(out / "stream").stored() == []
    assert watch.most_pools == 2
    assert POOL_BYTES / 2 < watch.most_bytes < 2 * 1.02 * POOL_BYTES
    said = "the stream holds at most 3 pools of 3.27 MB on disk, 9.81 MB in all, and keeps a head of 4.9 MB"
    assert any(sentence.startswith(said) for sentence in watch.said)

    (results, _) = sp.evaluate(runs, {"metrics": [{"name": "core"}], "features": None})
    assert results.is_file()
    assert sp.open_run(runs[0]).cache == out / "stream" / "head"
    again = streamed(config(), out, watch)
    assert again == runs
    assert harvests_into(out / "stream") == []


def test_a_killed_harvest_and_a_signal_cost_nothing(config: Make, toy_cache: Path, tmp_path: Path) -> None:
    """The harvest is killed before its first pool, so 32 steps are made of the head; then both are asked to stop."""
    out = tmp_path / "runs"

    def kill_the_harvest() -> None:
        for number in harvests_into(out / "stream"):
            os.kill(number, signal.SIGKILL)

    watch = Watch(out, 3, kill_the_harvest)
    with pytest.raises(MachineError, match="the harvest of the stream has ended: signal 9"):
        streamed(config(), out, watch)
    assert watch.said[-1].startswith("kept a checkpoint of")
    assert "wide/seed-0 at step 32 of 90" in watch.said[-1]

    watch = Watch(out, 8, lambda: signal.raise_signal(signal.SIGTERM))
    with pytest.raises(Stopped, match="at step 40 of 90"):
        streamed(config(), out, watch)
    assert harvests_into(out / "stream") == []

    by_ranks = config(stream={**config().to_dict()["stream"], "ranks": 2})
    assert weights(streamed(by_ranks, out, Silent())) == from_whole_cache(config, toy_cache, tmp_path)


def test_a_stream_in_a_bucket_is_refused(config: Make) -> None:
    stream = open_stream(StreamConfig.of(config().to_dict()["stream"]), folder_of("s3://bucket/runs/stream"), Silent())
    with pytest.raises(ConfigError, match="a stream needs a local folder, not s3://bucket/runs/stream"), stream:
        pass
