"""Trackers: what each of them has at the end is what stands in metrics.jsonl, and none of them can harm a run."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-")  # read when trackio is imported

from helpers.killed_training import KillAfter, Killed
from helpers.wandb_files import read_offline
from saepipe.data.errors import ConfigError, HealthError, MachineError
from saepipe.data.folders.artifact import is_committed
from saepipe.data.folders.health import Finding, Health
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.load import open_run
from saepipe.train.trackers import tensorboard
from saepipe.train.trackers import tracker_threads as feed
from saepipe.train.trackers.base import TrackedRun

Make = Callable[..., TrainConfig]
Lines = dict[int, dict[str, float]]
TWO = [{"name": "weak"}, {"name": "strong", "penalties.0.weight": 0.6, "steps": 12}]


def lines(run: Path) -> Lines:
    """By step, each number of metrics.jsonl by its path."""
    found: Lines = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        step = line.pop("step")
        for name, term in line.pop("terms").items():
            line |= {f"terms/{name}/{key}": value for key, value in term.items()}
        line |= {f"statistics/{key}": value for key, value in line.pop("statistics").items()}
        found[step] = {key: float(value) for key, value in line.items()}
    assert "terms/l1/gradient_share" in found[1]
    return found


def outcome(run: Path) -> tuple[bytes, bytes, list[Any], str]:
    """What must not depend on trackers: weights, health, metrics less times, id."""
    metrics = [line for _, line in sorted(lines(run).items())]
    for line in metrics:
        del line["tokens_per_second"]
    weights = (run / "sae" / "sae_weights.safetensors").read_bytes()
    return weights, (run / "health.json").read_bytes(), metrics, open_run(run).run_id


def off(said: Silent) -> list[str]:
    """What was said of trackers in trouble."""
    return [message for message in said.said if " is off: " in message]


def killed_and_resumed(config: TrainConfig, out: Path) -> Path:
    """Killed at step 17, with a line of step 16 written; resumed from the checkpoint of step 10."""
    with pytest.raises(Killed):
        train(config, out, progress=KillAfter(17))
    (run,) = train(config, out, resume="must")
    assert sorted(lines(run)) == [1, *range(2, 21, 2)]
    return run


# TensorBoard


def events(run: Path) -> tuple[Lines, dict[str, list[str]]]:
    """Scalars by step, and texts by tag, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / "log" / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    found: Lines = {}
    for tag in read.Tags()["scalars"]:
        for event in read.Scalars(tag):
            assert tag not in found.setdefault(event.step, {}), f"step {event.step} stands twice"
            found[event.step][tag] = event.value
    tensors = {tag: read.Tensors(tag) for tag in read.Tags()["tensors"]}
    texts = {tag: [event.tensor_proto.string_val[0].decode() for event in found] for tag, found in tensors.items()}
    return found, texts


def in_float32(found: Lines) -> Lines:
    return {step: {key: float(np.float32(value)) for key, value in line.items()} for step, line in found.items()}


def test_tensorboard_has_every_line(config: Make, tmp_path: Path) -> None:
    for run in train(config(trackers=["tensorboard"], variants=TWO), tmp_path):
        scalars, texts = events(run)
        assert scalars == in_float32(lines(run))
        assert texts["health/H9/text_summary"] == [str(finding) for finding in Health.read(run).findings]
        assert f"weight: {0.3 if run.parent.name == 'weak' else 0.6}" in texts["config/text_summary"][0]


def test_tensorboard_goes_on_without_doubled_steps(config: Make, tmp_path: Path) -> None:
    run = killed_and_resumed(config(trackers=["tensorboard"], log_every=2, checkpoint_every=10), tmp_path)
    assert len(list((run / "log" / "tensorboard").iterdir())) == 2
    # The first writer's lines 12, 14 and 16 are hidden; nothing in those that stay but the time can differ.
    kept, written = events(run)[0], in_float32(lines(run))
    assert kept == written


def test_a_tracker_that_comes_later_is_given_the_lines_before(config: Make, tmp_path: Path) -> None:
    often = {"log_every": 2, "checkpoint_every": 10}
    with pytest.raises(Killed):
        train(config(**often), tmp_path, progress=KillAfter(17))
    (run,) = train(config(**often, trackers=["tensorboard"]), tmp_path)
    assert events(run)[0] == in_float32(lines(run))


# Weights & Biases


def test_wandb_offline_has_every_line_and_goes_on_as_the_same_run(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    asked = {"trackers": ["wandb"], "log_every": 2, "checkpoint_every": 10}
    runs = train(config(**asked, variants=TWO), tmp_path / "study")
    runs.append(killed_and_resumed(config(**asked), tmp_path / "study"))
    for run in runs:
        files = sorted((run / "log" / "wandb").glob("offline-run-*/run-*.wandb"))
        read = [read_offline(path) for path in files]
        assert len(read) == (2 if run.parent.name == "base" else 1)
        assert len({one.id for one in read}) == 1
        last = read[-1]
        assert (last.name, last.group, last.project) == (f"{run.parent.name}/seed-0", "study", "saepipe")
        assert last.config["penalties"][0]["weight"] == (0.6 if run.parent.name == "strong" else 0.3)
        assert last.config["run"]["run_id"] == open_run(run).run_id
        assert {line.pop("_step"): line for line in last.history} == lines(run)
        assert len(last.history) == len(lines(run))
        assert last.summary["health/H9"] == "\n".join(map(str, Health.read(run).findings))
        assert last.exit_code == 0
    assert read[0].exit_code == 1  # it was killed
    assert capsys.readouterr().out == ""


def test_wandb_without_a_key_asks_for_none(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it reads its environment once
    said = Silent()
    (run,) = train(config(trackers=["wandb"]), tmp_path / "out", progress=said)
    wandb.teardown()
    assert is_committed(run)
    (told,) = off(said)
    assert "base/seed-0: tracker wandb is off: MachineError: there is no API key" in told
    assert "WANDB_MODE=offline" in told


# Trackio


def stored(project: str) -> dict[str, tuple[str, Lines, Any]]:
    """Of each run in Trackio's database: its name, its lines, its alerts; by id."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    found = {}
    for run in trackio.Api().runs(project):
        by_step: Lines = {}
        for entry in SQLiteStorage.get_logs(project, run.name, run_id=run.id):
            step = entry.pop("step")
            assert step not in by_step, f"step {step} stands twice"
            by_step[step] = {key: value for key, value in entry.items() if key != "timestamp"}
        found[run.id] = (run.name, by_step, run)
    return found


def test_trackio_has_every_line_and_goes_on_in_the_same_run(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_PROJECT", "goes-on")
    asked = {"trackers": ["trackio"], "log_every": 2, "checkpoint_every": 10}
    runs = train(config(**asked, variants=TWO), tmp_path / "study")
    runs.append(killed_and_resumed(config(**asked), tmp_path / "study"))
    runs += train(config(**asked, seed=0, steps=8), tmp_path / "another")  # of the name of the one before
    found = stored("goes-on")
    assert len(found) == 4
    assert capsys.readouterr().out == ""
    for run in runs:
        name, had, its = found[(run / "log" / "trackio.id").read_text().strip()]
        assert name == f"{run.parent.name}/seed-0"
        if len(had) == 11 and run.parent.name == "base":  # steps 12 to 16 were told before it was killed
            times = [line.pop("tokens_per_second") for line in had.values()]
            assert len(times) == 11
            assert had == {s: {k: v for k, v in ln.items() if k != "tokens_per_second"} for s, ln in lines(run).items()}
        else:
            assert had == lines(run)
        assert its.config["_Group"] == run.parents[1].name
        assert its.config["run"]["run_id"] == open_run(run).run_id
        alerts = {(alert["title"], alert["text"], alert["level"]) for alert in its.alerts()}
        levels = {"error": "error", "warning": "warn"}
        assert alerts == {
            ("H9: degenerate SAE", one.message, levels[one.severity]) for one in Health.read(run).findings
        }


def test_trackio_does_not_go_on_in_another_run_of_its_name(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_PROJECT", "one-name")
    asked = config(trackers=["trackio"], log_every=2, checkpoint_every=10)
    with pytest.raises(Killed):
        train(asked, tmp_path / "first", progress=KillAfter(17))
    (other,) = train(asked, tmp_path / "second")
    (run,) = train(asked, tmp_path / "first")
    found = stored("one-name")
    assert len(found) == 3
    for path in (other, run):
        assert found[(path / "log" / "trackio.id").read_text().strip()][1] == lines(path)


# What goes wrong


class Fake:
    """A tracker that keeps what it is told, and raises or hangs where it is asked to."""

    made: list[Fake]
    trouble: str = ""

    def __init__(self, run: TrackedRun) -> None:
        self.last_step = 0
        self.had: list[Any] = []
        self.made.append(self)
        self._meet("start")

    def _meet(self, what: str) -> None:
        if self.trouble == f"{what} hangs":
            threading.Event().wait(60)
        elif self.trouble == f"{what} exits":
            sys.exit(3)
        elif self.trouble == what:
            raise ConnectionError(f"no route in {what}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.had.append(step)
        if step > 1:
            self._meet("log")

    def tell(self, step: int, finding: Finding) -> None:
        self.had.append(finding.rule)
        self._meet("tell")

    def finish(self, ok: bool) -> None:
        self.had.append(ok)
        self._meet("finish")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """In the place of TensorBoard."""

    class Ours(Fake):
        made: list[Fake] = []  # noqa: RUF012 - of this test alone

    monkeypatch.setattr(tensorboard, "start", Ours)
    monkeypatch.setattr(feed, "PATIENCE", 0.3)
    return Ours


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path) -> Path:
    """The run that all of these must be, without trackers."""
    return tmp_path_factory.mktemp("plain")


@pytest.mark.parametrize("trouble", ["", "start", "log", "tell", "finish", "log exits", "start hangs", "log hangs"])
def test_whatever_a_tracker_does_the_run_is_the_same(
    config: Make, tmp_path: Path, plain: Path, fake: type[Fake], trouble: str
) -> None:
    (expected,) = train(config(), plain)
    fake.trouble = trouble
    said = Silent()
    (run,) = train(config(trackers=["tensorboard"]), tmp_path, progress=said)
    assert outcome(run) == outcome(expected)
    told = off(said)
    assert len(told) == bool(trouble)
    if trouble.endswith("hangs"):
        assert "base/seed-0: tracker tensorboard is off: it has not finished 0.3 s after training" in told[0]
    elif trouble:
        words = "SystemExit: 3" if trouble.endswith("exits") else f"ConnectionError: no route in {trouble}"
        assert f"base/seed-0: tracker tensorboard is off: {words}" in told[0]
    else:
        rules = [finding.rule for finding in Health.read(run).findings]
        assert fake.made[0].had == [1, 5, 10, 15, 20, *rules, True]


def test_one_tracker_in_trouble_leaves_the_others_alone(config: Make, tmp_path: Path, fake: type[Fake]) -> None:
    class Moody(fake):
        def __init__(self, run: TrackedRun) -> None:
            super().__init__(run)
            self.trouble = "log" if run.name == "weak/seed-0" else ""

    tensorboard.start = Moody
    said = Silent()
    _, strong = train(config(trackers=["tensorboard"], variants=TWO), tmp_path, progress=said)
    assert len(off(said)) == 1
    rules = [finding.rule for finding in Health.read(strong).findings]
    assert [one.had for one in fake.made] == [[1, 5], [1, 5, 10, 12, *rules, True]]


def test_it_hears_of_runs_that_fail_and_of_runs_that_are_stopped(
    config: Make, tmp_path: Path, fake: type[Fake]
) -> None:
    with pytest.raises(HealthError):
        train(config(trackers=["tensorboard"], optimizer={"lr": 1e30, "clip": None}), tmp_path / "fails")
    with pytest.raises(Killed):
        train(config(trackers=["tensorboard"]), tmp_path / "stopped", progress=KillAfter(7))
    failed, stopped = (one.had for one in fake.made)
    assert "H7" in failed
    assert failed[-1] is False
    assert stopped == [1, 5, False]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_told_before_any_run_is_begun(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(
        MachineError, match=rf"tracker {name} needs .* not installed\n.*pip install 'saepipe\[{name}\]'"
    ):
        train(config(trackers=[name]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_names_are_refused(config: Make) -> None:
    with pytest.raises(ConfigError, match="trackers.0 = 'mlflow'"):
        config(trackers=["mlflow"])
