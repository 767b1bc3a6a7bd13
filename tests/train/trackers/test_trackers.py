"""Trackers: each ends up with the lines of metrics.jsonl, and none of them can harm a run."""

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
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.trackers import tensorboard, tracker_threads
from saepipe.train.trackers.base import TrackedRun

Make = Callable[..., TrainConfig]
Lines = dict[int, dict[str, float]]
TWO = [{"name": "weak"}, {"name": "strong", "penalties.0.weight": 0.6, "steps": 12}]


def lines(run: Path) -> Lines:
    """Returns the numbers of metrics.jsonl by step and path."""
    by_step: Lines = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        step = line.pop("step")
        for name, term in line.pop("terms").items():
            line |= {f"terms/{name}/{key}": value for key, value in term.items()}
        line |= {f"statistics/{key}": value for key, value in line.pop("statistics").items()}
        by_step[step] = {key: float(value) for key, value in line.items()}
    assert "terms/l1/gradient_share" in by_step[1]
    return by_step


def outcome(run: Path) -> tuple[bytes, bytes, list[Any], str]:
    """Returns all that must not depend on trackers: weights, health, metrics without times, id."""
    metrics = [line for _, line in sorted(lines(run).items())]
    for line in metrics:
        del line["tokens_per_second"]
    weights = (run / "sae" / "sae_weights.safetensors").read_bytes()
    return weights, (run / "health.json").read_bytes(), metrics, open_run(run).run_id


def failures(progress: Silent) -> list[str]:
    """Returns the messages about failed trackers."""
    return [message for message in progress.said if " is off: " in message]


def killed_and_resumed(config: TrainConfig, out: Path) -> Path:
    """Kills a run at step 17, after the line of step 16, and resumes it from the checkpoint of step 10."""
    with pytest.raises(Killed):
        train(config, out, progress=KillAfter(17))
    (run,) = train(config, out, resume="must")
    assert sorted(lines(run)) == [1, *range(2, 21, 2)]
    return run


# TensorBoard


def events(run: Path) -> tuple[Lines, dict[str, list[str]]]:
    """Returns scalars by step, and texts by tag, as TensorBoard shows them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run / "log" / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0}).Reload()
    scalars: Lines = {}
    for tag in reader.Tags()["scalars"]:
        for event in reader.Scalars(tag):
            assert tag not in scalars.setdefault(event.step, {}), f"step {event.step} is there twice"
            scalars[event.step][tag] = event.value
    tensors = {tag: reader.Tensors(tag) for tag in reader.Tags()["tensors"]}
    texts = {tag: [event.tensor_proto.string_val[0].decode() for event in values] for tag, values in tensors.items()}
    return scalars, texts


def in_float32(by_step: Lines) -> Lines:
    return {step: {key: float(np.float32(value)) for key, value in line.items()} for step, line in by_step.items()}


def test_tensorboard_has_every_line(config: Make, tmp_path: Path) -> None:
    for run in train(config(trackers=["tensorboard"], variants=TWO), tmp_path):
        scalars, texts = events(run)
        assert scalars == in_float32(lines(run))
        assert texts["health/H9/text_summary"] == [str(finding) for finding in Health.read(run).findings]
        assert f"weight: {0.3 if run.parent.name == 'weak' else 0.6}" in texts["config/text_summary"][0]


def test_tensorboard_resumes_without_duplicate_steps(config: Make, tmp_path: Path) -> None:
    run = killed_and_resumed(config(trackers=["tensorboard"], log_every=2, checkpoint_every=10), tmp_path)
    assert len(list((run / "log" / "tensorboard").iterdir())) == 2
    # The first writer's lines 12, 14 and 16 are hidden; the remaining lines agree even in their times.
    shown, written = events(run)[0], in_float32(lines(run))
    assert shown == written


def test_a_tracker_added_on_resume_gets_the_earlier_lines(config: Make, tmp_path: Path) -> None:
    often = {"log_every": 2, "checkpoint_every": 10}
    with pytest.raises(Killed):
        train(config(**often), tmp_path, progress=KillAfter(17))
    (run,) = train(config(**often, trackers=["tensorboard"]), tmp_path)
    assert events(run)[0] == in_float32(lines(run))


# Weights & Biases


def test_wandb_offline_has_every_line_and_resumes_the_same_run(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    settings = {"trackers": ["wandb"], "log_every": 2, "checkpoint_every": 10}
    runs = train(config(**settings, variants=TWO), tmp_path / "study")
    runs.append(killed_and_resumed(config(**settings), tmp_path / "study"))
    for run in runs:
        files = sorted((run / "log" / "wandb").glob("offline-run-*/run-*.wandb"))
        offline_runs = [read_offline(path) for path in files]
        assert len(offline_runs) == (2 if run.parent.name == "base" else 1)
        assert len({offline.id for offline in offline_runs}) == 1
        last = offline_runs[-1]
        assert (last.name, last.group, last.project) == (f"{run.parent.name}/seed-0", "study", "saepipe")
        assert last.config["penalties"][0]["weight"] == (0.6 if run.parent.name == "strong" else 0.3)
        assert last.config["run"]["run_id"] == open_run(run).run_id
        assert {line.pop("_step"): line for line in last.history} == lines(run)
        assert len(last.history) == len(lines(run))
        assert last.summary["health/H9"] == "\n".join(map(str, Health.read(run).findings))
        assert last.exit_code == 0
    assert offline_runs[0].exit_code == 1  # it was killed
    assert capsys.readouterr().out == ""


def test_wandb_does_not_prompt_for_a_key(config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no .netrc
    wandb = pytest.importorskip("wandb")
    wandb.teardown()  # it reads its environment once
    progress = Silent()
    (run,) = train(config(trackers=["wandb"]), tmp_path / "out", progress=progress)
    wandb.teardown()
    assert is_committed(run)
    (message,) = failures(progress)
    assert "base/seed-0: tracker wandb is off: MachineError: there is no API key" in message
    assert "WANDB_MODE=offline" in message


# Trackio


def stored(project: str) -> dict[str, tuple[str, Lines, Any]]:
    """Returns (name, lines, run) of each run in Trackio's database, by id."""
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    runs = {}
    for run in trackio.Api().runs(project):
        by_step: Lines = {}
        for entry in SQLiteStorage.get_logs(project, run.name, run_id=run.id):
            step = entry.pop("step")
            assert step not in by_step, f"step {step} is there twice"
            by_step[step] = {key: value for key, value in entry.items() if key != "timestamp"}
        runs[run.id] = (run.name, by_step, run)
    return runs


def test_trackio_has_every_line_and_resumes_the_same_run(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRACKIO_PROJECT", "goes-on")
    settings = {"trackers": ["trackio"], "log_every": 2, "checkpoint_every": 10}
    runs = train(config(**settings, variants=TWO), tmp_path / "study")
    runs.append(killed_and_resumed(config(**settings), tmp_path / "study"))
    runs += train(config(**settings, seed=0, steps=8), tmp_path / "another")  # with the same name as the one before
    stored_runs = stored("goes-on")
    assert len(stored_runs) == 4
    assert capsys.readouterr().out == ""
    for run in runs:
        name, sent, stored_run = stored_runs[(run / "log" / "trackio.id").read_text().strip()]
        assert name == f"{run.parent.name}/seed-0"
        if len(sent) == 11 and run.parent.name == "base":  # steps 12 to 16 were sent before it was killed
            expected = lines(run)
            for line in (*sent.values(), *expected.values()):
                del line["tokens_per_second"]
            assert sent == expected
        else:
            assert sent == lines(run)
        assert stored_run.config["_Group"] == run.parents[1].name
        assert stored_run.config["run"]["run_id"] == open_run(run).run_id
        alerts = {(alert["title"], alert["text"], alert["level"]) for alert in stored_run.alerts()}
        levels = {"error": "error", "warning": "warn"}
        findings = Health.read(run).findings
        assert alerts == {("H9: degenerate SAE", finding.message, levels[finding.severity]) for finding in findings}


def test_trackio_does_not_resume_another_run_of_the_same_name(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKIO_PROJECT", "one-name")
    train_config = config(trackers=["trackio"], log_every=2, checkpoint_every=10)
    with pytest.raises(Killed):
        train(train_config, tmp_path / "first", progress=KillAfter(17))
    (second,) = train(train_config, tmp_path / "second")
    (first,) = train(train_config, tmp_path / "first")
    stored_runs = stored("one-name")
    assert len(stored_runs) == 3
    for run in (second, first):
        assert stored_runs[(run / "log" / "trackio.id").read_text().strip()][1] == lines(run)


# Failing trackers


class Fake:
    """A tracker that records its calls, and raises, exits or hangs in the call named by `fault`."""

    instances: list[Fake]
    fault: str = ""

    def __init__(self, run: TrackedRun) -> None:
        self.last_step = 0
        self.calls: list[Any] = []
        self.instances.append(self)
        self._fail("start")

    def _fail(self, call: str) -> None:
        if self.fault == f"{call} hangs":
            threading.Event().wait(60)
        elif self.fault == f"{call} exits":
            sys.exit(3)
        elif self.fault == call:
            raise ConnectionError(f"no route in {call}")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.calls.append(step)
        if step > 1:
            self._fail("log")

    def log_finding(self, step: int, finding: Finding) -> None:
        self.calls.append(finding.rule)
        self._fail("log_finding")

    def finish(self, ok: bool) -> None:
        self.calls.append(ok)
        self._fail("finish")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """A fake that takes the place of TensorBoard."""

    class Ours(Fake):
        instances: list[Fake] = []  # noqa: RUF012 - of this test alone

    monkeypatch.setattr(tensorboard, "start", Ours)
    monkeypatch.setattr(tracker_threads, "FINISH_TIMEOUT", 0.3)
    return Ours


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, tiny_cache: Path) -> Path:
    """Folder of the run without trackers, which all others must equal."""
    return tmp_path_factory.mktemp("plain")


FAULTS = ["", "start", "log", "log_finding", "finish", "log exits", "start hangs", "log hangs"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failing_tracker_does_not_change_the_run(
    config: Make, tmp_path: Path, plain: Path, fake: type[Fake], fault: str
) -> None:
    (expected,) = train(config(), plain)
    fake.fault = fault
    progress = Silent()
    (run,) = train(config(trackers=["tensorboard"]), tmp_path, progress=progress)
    assert outcome(run) == outcome(expected)
    messages = failures(progress)
    assert len(messages) == bool(fault)
    if fault.endswith("hangs"):
        assert "base/seed-0: tracker tensorboard is off: it had not finished 0.3 s after training" in messages[0]
    elif fault:
        error = "SystemExit: 3" if fault.endswith("exits") else f"ConnectionError: no route in {fault}"
        assert f"base/seed-0: tracker tensorboard is off: {error}" in messages[0]
    else:
        rules = [finding.rule for finding in Health.read(run).findings]
        assert fake.instances[0].calls == [1, 5, 10, 15, 20, *rules, True]


def test_a_failing_tracker_does_not_affect_other_runs(config: Make, tmp_path: Path, fake: type[Fake]) -> None:
    class FailsForOne(fake):
        def __init__(self, run: TrackedRun) -> None:
            super().__init__(run)
            self.fault = "log" if run.name == "weak/seed-0" else ""

    tensorboard.start = FailsForOne
    progress = Silent()
    _, strong = train(config(trackers=["tensorboard"], variants=TWO), tmp_path, progress=progress)
    assert len(failures(progress)) == 1
    rules = [finding.rule for finding in Health.read(strong).findings]
    assert [tracker.calls for tracker in fake.instances] == [[1, 5], [1, 5, 10, 12, *rules, True]]


def test_trackers_are_ended_if_a_run_fails_or_is_stopped(config: Make, tmp_path: Path, fake: type[Fake]) -> None:
    with pytest.raises(HealthError):
        train(config(trackers=["tensorboard"], optimizer={"lr": 1e30, "clip": None}), tmp_path / "fails")
    with pytest.raises(Killed):
        train(config(trackers=["tensorboard"]), tmp_path / "stopped", progress=KillAfter(7))
    failed, stopped = (tracker.calls for tracker in fake.instances)
    assert "H7" in failed
    assert failed[-1] is False
    assert stopped == [1, 5, False]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_reported_before_any_run_begins(
    config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None)
    with pytest.raises(
        MachineError, match=rf"tracker {name} needs .* not installed\n.*pip install 'saepipe\[{name}\]'"
    ):
        train(config(trackers=[name]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_tracker_names_are_refused(config: Make) -> None:
    with pytest.raises(ConfigError, match="trackers.0 = 'mlflow'"):
        config(trackers=["mlflow"])
