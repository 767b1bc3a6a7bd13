"""The process, or the ranks, that harvest the pools of a stream while this process trains on them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from saepipe.data.errors import (
    AGAIN,
    ConfigError,
    CorruptDataError,
    HealthError,
    LockedError,
    MachineError,
    OutOfSpaceError,
    RemoteError,
    SaepipeError,
    Stopped,
)
from saepipe.data.rolling.rolling_folder import RollingFolder

COMMAND = "stream"
"""Hidden command of saepipe that the process runs."""
END_SECONDS = 60.0
"""Time that the process has to end once it is asked to."""

_ERRORS = (ConfigError, MachineError, CorruptDataError, OutOfSpaceError, RemoteError, LockedError, HealthError)
_BY_CODE: dict[int, type[SaepipeError]] = {error.exit_code: error for error in _ERRORS}


@contextmanager
def harvesting(folder: RollingFolder, ranks: int) -> Iterator[Callable[[], bool]]:
    """Harvests into a folder until this is left, as `RollingCache` asks for."""
    folder.log.parent.mkdir(parents=True, exist_ok=True)
    with folder.log.open("wb") as log:
        # A session of its own, so that Ctrl-C in a terminal comes to this process alone, which then ends that one. If
        # this process is killed, the pipe ends, and that one with it.
        command, pipe = _command(folder, ranks), subprocess.PIPE
        process = subprocess.Popen(command, stdin=pipe, stdout=log, stderr=log, start_new_session=True)
        try:
            yield lambda: _goes_on(process, folder)
        finally:
            _end(process)


def _command(folder: RollingFolder, ranks: int) -> list[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"] if ranks > 1 else []
    return [sys.executable, *launcher, "-m", "saepipe", COMMAND, str(folder.path), "--format", "json"]


def _goes_on(process: subprocess.Popen[bytes], folder: RollingFolder) -> bool:
    """Returns whether the process runs; raises what has ended it, unless it has made all pools."""
    code = process.poll()
    if not code:
        return code is None
    raise _error(code, folder)


def _error(code: int, folder: RollingFolder) -> SaepipeError | Stopped:
    said = _first_error(folder)
    code = int(said.get("exit_code", code))
    if code in (Stopped.exit_code, 130, -15):
        return Stopped("the harvest of the stream was stopped", hint=AGAIN)
    if code in _BY_CODE:
        return _BY_CODE[code](f"the harvest of the stream has ended: {said.get('error')}", hint=said.get("hint"))
    reason = said.get("error") or (f"signal {-code}" if code < 0 else f"exit code {code}")
    return MachineError(f"the harvest of the stream has ended: {reason}", hint=f"see {folder.log}; {AGAIN}")


def _first_error(folder: RollingFolder) -> dict[str, Any]:
    """Returns the first error in the log of the process, from which those of other ranks follow; empty without one."""
    for line in folder.log.read_text(errors="replace").splitlines():
        if line.startswith('{"error"'):
            try:
                return dict(json.loads(line))
            except ValueError:
                continue
    return {}


def _end(process: subprocess.Popen[bytes]) -> None:
    """Asks the process to end, and waits until it has; a torchrun ends its ranks."""
    process.terminate()
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.wait()
    finally:
        assert process.stdin is not None
        process.stdin.close()
