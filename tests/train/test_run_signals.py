"""A training that is asked to stop keeps a checkpoint of its last step, says so, and is resumed bit for bit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from saepipe.cli import main
from saepipe.data.errors import OutOfTime, Stopped
from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.terminal import signals
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

Make = Callable[..., TrainConfig]
VARIANTS = [{"name": "long"}, {"name": "short", "steps": 5}, {"name": "strong", "penalties.0.weight": 2.0}]


class SignalAfter(Silent):
    """Sends this process a signal after a number of batches."""

    def __init__(self, batches: int, number: int) -> None:
        super().__init__()
        self.remaining, self.number = batches, number

    def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
        self.remaining -= amount > 0
        if amount > 0 and self.remaining == 0:
            signal.raise_signal(self.number)


@pytest.mark.parametrize(
    ("number", "error"),
    [(signal.SIGTERM, Stopped), (signal.SIGUSR1, OutOfTime), (signal.SIGINT, KeyboardInterrupt)],
)
def test_every_run_in_progress_is_kept(config: Make, tmp_path: Path, number: int, error: type[BaseException]) -> None:
    study = config(variants=VARIANTS, checkpoint_every=100)
    uninterrupted = train(study, tmp_path / "uninterrupted")
    handlers = [signal.getsignal(each) for each in signals.SIGNALS]
    with pytest.raises(error) as stopped:
        train(study, tmp_path / "parts", progress=SignalAfter(12, number))
    assert [signal.getsignal(each) for each in signals.SIGNALS] == handlers
    for name in ("long", "strong"):
        run = tmp_path / "parts" / name / "seed-0"
        assert f"{run} at step 12 of 20" in str(stopped.value)
        assert [path.name for path in (run / "checkpoints").iterdir()] == ["12"]
    assert "short" not in str(stopped.value)
    assert not list(tmp_path.rglob("*.partial"))
    resumed = train(study, tmp_path / "parts", resume="must")
    assert [(run / COMMITTED).read_text() for run in resumed] == [
        (run / COMMITTED).read_text() for run in uninterrupted
    ]


def test_ctrl_c_on_the_command_line(
    config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "study.yaml").write_text(config(checkpoint_every=100).to_yaml())
    command = ["train", "--config", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs")]
    with monkeypatch.context() as patched:
        patched.setattr("saepipe.data.terminal.console.Bar", lambda _: SignalAfter(7, signal.SIGINT))
        assert main(command) == 130
    said = capsys.readouterr().err
    assert "stopped by Ctrl-C; kept a checkpoint of" in said
    assert "at step 7 of 20" in said
    assert "run the same command again" in said
    assert main([*command, "--resume", "must"]) == 0


def begun(tmp_path: Path, config: TrainConfig) -> subprocess.Popen[str]:
    """Returns a process that trains into `tmp_path`/runs, once it has done its first step."""
    (tmp_path / "study.yaml").write_text(config.to_yaml())
    command = [sys.executable, "-m", "saepipe.cli", "train", "-c", str(tmp_path / "study.yaml"), "--out", "runs"]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    log = tmp_path / "runs" / "base" / "seed-0" / "metrics.jsonl"
    while process.poll() is None and not (log.exists() and log.stat().st_size):
        pass
    return process


def test_sigterm_in_another_process(config: Make, tmp_path: Path) -> None:
    study = config(steps=30_000, checkpoint_every=100_000, log_every=1000)
    process = begun(tmp_path, study)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    (kept,) = (tmp_path / "runs" / "base" / "seed-0" / "checkpoints").iterdir()
    assert f"stopped by SIGTERM; kept a checkpoint of\n  runs/base/seed-0 at step {int(kept.name):,} of 30,000" in said
    assert "run the same command again" in said
    assert not list(tmp_path.rglob("*.partial"))


def test_a_second_ctrl_c_ends_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with signals.raising_on_signals():
        with signals.stop_requests() as request:
            signal.raise_signal(signal.SIGINT)
            assert request
            assert ended == []
            signal.raise_signal(signal.SIGTERM)  # schedulers send theirs several times
            signal.raise_signal(signal.SIGUSR1)
            assert ended == []
            assert request.signal_number == signal.SIGINT
            signal.raise_signal(signal.SIGINT)
            assert ended == [130]
        signal.raise_signal(signal.SIGINT)
        assert ended == [130, 130]


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Stopped), (signal.SIGUSR1, OutOfTime)])
def test_a_signal_during_imports_ends_the_command(number: int, error: type[Stopped]) -> None:
    def interrupted() -> None:
        try:
            signal.raise_signal(number)
        finally:
            signal.raise_signal(signal.SIGUSR1)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(Stopped) as stopped, signals.raising_on_signals():
        interrupted()
    assert type(stopped.value) is error
    assert stopped.value.message == f"stopped by {signal.Signals(number).name}"


def test_a_program_keeps_its_own_sigusr1() -> None:
    received: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    try:
        with signals.stop_requests() as request:
            signal.raise_signal(signal.SIGUSR1)
            assert not request
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert received == [signal.SIGUSR1]


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.raising_on_signals(), signals.stop_requests() as request:
            signal.raise_signal(signal.SIGINT)
            assert not request
    finally:
        signal.signal(signal.SIGINT, before)
