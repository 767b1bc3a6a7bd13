"""Runs a script or a module on several ranks of this machine, by the agent that torchrun starts.

The ranks are forked from a process that has imported what they need: a rank of torchrun spends most of its CPU time on
imports. `torchrun(..., fresh=True)` starts everything anew, as a user's command does.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

ROOT = Path(__file__).parents[2]
SECONDS = 300
PRELOADED = ("torch.distributed.elastic", "helpers.preloaded")


@dataclass(frozen=True)
class Answer:
    """What the ranks said, one after the other, and 0 or the exit code of a launch that failed."""

    returncode: int
    stdout: str
    stderr: str


def torchrun(num_ranks: int, arguments: Sequence[str], *, max_restarts: int = 0, fresh: bool = False) -> Answer:
    """Runs `arguments` (a script, or -m and a module, and its arguments) on ranks with one torch thread each."""
    run = _run_anew if fresh else _run_forked
    return run(num_ranks, arguments, max_restarts)


def _run_anew(num_ranks: int, arguments: Sequence[str], max_restarts: int) -> Answer:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    command = [*launcher, f"--max-restarts={max_restarts}", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS)
    return Answer(done.returncode, done.stdout, done.stderr)


def _run_forked(num_ranks: int, arguments: Sequence[str], max_restarts: int) -> Answer:
    multiprocessing.set_forkserver_preload([*PRELOADED])
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=num_ranks,
            logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=Std.ALL),
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=max_restarts,
            start_method="forkserver",
        )
        code = 0
        try:
            with _handlers_restored(), _limited(), patch.dict(os.environ, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}"):
                elastic_launch(config, _rank)([*arguments])
        except ChildFailedError:
            code = 1
        said = [sorted(Path(logs).rglob(name)) for name in ("stdout.log", "stderr.log")]
        return Answer(code, *("".join(path.read_text() for path in paths) for paths in said))


@contextmanager
def _handlers_restored() -> Iterator[None]:
    """Takes back the handlers that the agent sets."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextmanager
def _limited() -> Iterator[None]:
    """Raises TimeoutError, on which the agent ends its ranks, after SECONDS."""

    def late(*_: object) -> None:
        raise TimeoutError(f"the ranks have not ended within {SECONDS} s")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def _rank(arguments: list[str]) -> None:
    """Does in a forked rank what python does with `arguments`."""
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    is_module = arguments[0] == "-m"
    sys.argv = arguments[1:] if is_module else arguments
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
        runpy.run_path(sys.argv[0], run_name="__main__")
