"""The process beside a training: its errors are the training's, with their exit codes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import sleep

import pytest

from saepipe.data.errors import ConfigError, MachineError, OutOfSpaceError, Stopped
from saepipe.data.rolling.rolling_folder import RollingFolder
from saepipe.evaluate.streaming import harvest_process
from saepipe.evaluate.streaming.harvest_process import harvesting


def ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> bool:
    """Runs Python code in the place of the harvest; returns what is told once it has ended."""
    monkeypatch.setattr(harvest_process, "_command", lambda *_: [sys.executable, "-c", code])
    with harvesting(RollingFolder(tmp_path), 1) as goes_on:
        while goes_on():
            sleep(0.01)
        return goes_on()


def failing(code: int, exit_code: int, message: str) -> str:
    """Returns Python code that ends with `code`, after an error and what torchrun says of it."""
    line = json.dumps({"error": message, "hint": "do this", "exit_code": exit_code})
    return f"print('a line'); print({line!r}); print('torchrun: failed'); raise SystemExit({code})"


def test_a_harvest_that_has_made_all_pools_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ended(tmp_path, monkeypatch, "") is False


@pytest.mark.parametrize(
    ("code", "expected", "message"),
    [
        (failing(2, 2, "no such text"), ConfigError, "the harvest of the stream has ended: no such text"),
        (failing(1, 5, "full"), OutOfSpaceError, "has ended: full"),  # torchrun's own exit code is 1
        (failing(1, 1, "a bug in saepipe"), MachineError, "has ended: a bug in saepipe"),
        (failing(75, 75, "stopped"), Stopped, "the harvest of the stream was stopped"),
        ("raise SystemExit(9)", MachineError, "has ended: exit code 9"),
        ("import os; os.kill(os.getpid(), 9)", MachineError, "has ended: signal 9"),
        ("import os; os.kill(os.getpid(), 15)", Stopped, "was stopped"),
    ],
)
def test_its_error_is_raised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, expected: type[BaseException], message: str
) -> None:
    with pytest.raises(expected, match=message):
        ended(tmp_path, monkeypatch, code)


def test_it_ends_with_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('on', flush=True); time.sleep(60)"
    )
    monkeypatch.setattr(harvest_process, "_command", lambda *_: [sys.executable, "-c", stubborn])
    monkeypatch.setattr(harvest_process, "END_SECONDS", 0.1)
    folder = RollingFolder(tmp_path)
    with harvesting(folder, 1) as goes_on:
        while not folder.log.read_text():
            sleep(0.01)
        assert goes_on()
    with pytest.raises(MachineError, match="signal 9"):
        goes_on()


def test_ranks_are_started_by_torchrun() -> None:
    alone, together = (harvest_process._command(RollingFolder(Path("runs/stream")), ranks) for ranks in (1, 3))
    assert alone[1:] == ["-m", "saepipe", "stream", "runs/stream", "--format", "json"]
    assert together[1:4] == ["-m", "torch.distributed.run", "--standalone"]
    assert together[4:] == ["--nproc-per-node=3", *alone[1:]]
