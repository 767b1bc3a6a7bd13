"""A killed run whose folder was damaged goes on from what is intact, says so, and ends with the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.killed_training import KillAfter, Killed
from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.resume_point import resume_point

Make = Callable[..., TrainConfig]
Damage = Callable[[Path], object]


@pytest.fixture
def uninterrupted(config: Make, tmp_path: Path) -> str:
    """Returns the fingerprint of the run when nothing happens to it."""
    (run,) = train(config(), tmp_path / "uninterrupted")
    return (run / COMMITTED).read_text()


def killed_run(config: TrainConfig, out: Path) -> Path:
    """Returns the folder of a run that was killed at step 19, with checkpoints of steps 10 and 15."""
    with pytest.raises(Killed):
        train(config, out, progress=KillAfter(19))
    return out / "base" / "seed-0"


def edit(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def edit_index(run: Path, **changes: Any) -> None:
    path = run / "checkpoints" / "15" / "state.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_index(run: Path, data: bytes) -> None:
    (run / "checkpoints" / "15" / "state.json").write_bytes(data)


LOG: dict[str, Damage] = {
    "emptied": lambda run: (run / "metrics.jsonl").write_bytes(b""),
    "deleted": lambda run: (run / "metrics.jsonl").unlink(),
    "shortened": lambda run: edit(run / "metrics.jsonl", lambda log: log.splitlines(keepends=True)[0]),
    "edited": lambda run: edit(run / "metrics.jsonl", lambda log: log.replace(b'"dead": 0', b'"dead": 1', 1)),
    "bad line": lambda run: edit(run / "metrics.jsonl", lambda log: b"no line\n" + log),
    "bad bytes": lambda run: edit(run / "metrics.jsonl", lambda log: b"\xff\xfe\n" + log),
}
CHECKPOINT: dict[str, Damage] = {
    "step": lambda run: edit_index(run, step=12),
    "num_summed": lambda run: edit_index(run, num_summed=7),
    "a lost seal": lambda run: edit_index(run, seal=None),
    "bad bytes": lambda run: write_index(run, b"\xff\xfe{"),
    "not a mapping": lambda run: write_index(run, b"[]"),
    "deleted": lambda run: (run / "checkpoints" / "15" / "state.json").unlink(),
    "tensors": lambda run: edit(run / "checkpoints" / "15" / "state.safetensors", lambda data: data[:-1] + b"?"),
}
HARMLESS: dict[str, Damage] = {
    "a stray file": lambda run: (run / "checkpoints" / "notes.txt").write_text("mine"),
    "a stray folder": lambda run: shutil.copytree(run / "checkpoints" / "15", run / "checkpoints" / "old"),
    "config.yaml": lambda run: (run / "config.yaml").write_bytes(b"\xff\xfe"),
    "manifest": lambda run: (run / "manifest.jsonl").write_bytes(b"\xff\xfe\n"),
    "manifest's first line": lambda run: (run / "manifest.jsonl").write_text("[]\n"),
    "stacked": lambda run: edit(run / "manifest.jsonl", lambda text: text.replace(b'"stacked": 1', b'"stacked": 3')),
    "a partial file": lambda run: (run / "health.json.partial").write_text("{"),
}


@pytest.mark.parametrize("name", LOG)
def test_a_damaged_log_is_made_again_from_step_0(config: Make, tmp_path: Path, uninterrupted: str, name: str) -> None:
    run = killed_run(config(), tmp_path / "killed")
    LOG[name](run)
    progress = Silent()
    train(config(), tmp_path / "killed", resume="must", progress=progress)
    assert (run / COMMITTED).read_text() == uninterrupted
    said = [sentence for sentence in progress.said if "checkpoint 10 cannot be used" in sentence]
    assert len(said) == 1
    assert said[0].endswith("missing or were changed; the run goes on from step 0")


@pytest.mark.parametrize("name", CHECKPOINT)
def test_a_damaged_checkpoint_is_left_out(config: Make, tmp_path: Path, uninterrupted: str, name: str) -> None:
    run = killed_run(config(), tmp_path / "killed")
    CHECKPOINT[name](run)
    progress = Silent()
    train(config(), tmp_path / "killed", resume="must", progress=progress)
    assert (run / COMMITTED).read_text() == uninterrupted
    (sentence,) = [sentence for sentence in progress.said if "cannot be used" in sentence]
    assert "checkpoint 15 cannot be used: state." in sentence or "it has no state.json" in sentence
    assert sentence.endswith("the run goes on from step 10")


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_not_read_or_written_again_changes_nothing(
    config: Make, tmp_path: Path, uninterrupted: str, name: str
) -> None:
    run = killed_run(config(), tmp_path / "killed")
    HARMLESS[name](run)
    assert resume_point(run, json.loads((run / "checkpoints/15/state.json").read_text())["run_id"]).said == ()
    train(config(), tmp_path / "killed", resume="must")
    assert (run / COMMITTED).read_text() == uninterrupted
    assert not list(run.rglob("*.partial"))


def test_a_run_without_a_checkpoint_begins_again(config: Make, tmp_path: Path) -> None:
    run = killed_run(config(), tmp_path)
    shutil.rmtree(run / "checkpoints")
    progress = Silent()
    train(config(), tmp_path, progress=progress)
    assert f"{run}: an earlier call left no checkpoint; the run goes on from step 0" in progress.said


def as_before_seals(run: Path) -> None:
    """Makes the checkpoints of a run what an earlier version would have written."""
    for path in run.glob("checkpoints/*/state.json"):
        index = json.loads(path.read_text())
        path.write_text(json.dumps({key: index[key] for key in index.keys() - {"log", "header", "seal"}}))


def test_a_checkpoint_of_an_earlier_version_is_used_and_named(config: Make, tmp_path: Path, uninterrupted: str) -> None:
    run = killed_run(config(), tmp_path / "killed")
    as_before_seals(run)
    progress = Silent()
    train(config(), tmp_path / "killed", progress=progress)
    assert (run / COMMITTED).read_text() == uninterrupted
    assert any("is of an earlier version" in sentence and "from step 15" in sentence for sentence in progress.said)


@pytest.mark.parametrize("name", ["emptied", "deleted", "bad line", "bad bytes"])
def test_an_earlier_version_needs_the_lines_of_its_log_too(
    config: Make, tmp_path: Path, uninterrupted: str, name: str
) -> None:
    run = killed_run(config(), tmp_path / "killed")
    as_before_seals(run)
    LOG[name](run)
    train(config(), tmp_path / "killed")
    assert (run / COMMITTED).read_text() == uninterrupted
