from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.killed_training import KillAfter, Killed
from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

Make = Callable[..., TrainConfig]


def resumed(config: TrainConfig, out: Path, change: Callable[[Path], object]) -> list[str]:
    """Kills a run, changes its log/train.jsonl, resumes it, and returns what was said of other settings."""
    with pytest.raises(Killed):
        train(config, out, progress=KillAfter(12))
    change(out / "base" / "seed-0" / "log" / "train.jsonl")
    progress = Silent()
    train(config, out, progress=progress)
    return [sentence for sentence in progress.said if "resumed with" in sentence]


def test_other_versions_and_threads_are_said_on_resume(config: Make, tmp_path: Path) -> None:
    def change(path: Path) -> None:
        line = json.loads(path.read_text())
        line["settings"] |= {"torch": "1.0", "threads": 99}
        path.write_text(json.dumps(line) + "\n")

    (uninterrupted,) = train(config(), tmp_path / "uninterrupted")
    (sentence,) = resumed(config(), tmp_path / "parts", change)
    run = tmp_path / "parts" / "base" / "seed-0"
    assert "torch 1.0 -> " in sentence
    assert "threads 99 -> " in sentence
    assert (run / COMMITTED).read_text() == (uninterrupted / COMMITTED).read_text()
    steps = [json.loads(line)["step"] for line in (run / "log" / "train.jsonl").read_text().splitlines()]
    assert steps == [0, 10]


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"\xff"), lambda _: None])
def test_equal_or_unknown_settings_are_not_mentioned(
    config: Make, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    assert resumed(config(), tmp_path, damage) == []
