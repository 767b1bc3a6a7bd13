"""Runs a script or a module on several ranks of this machine, by the agent that torchrun starts.

The ranks are forked from a process that has imported what they need: a rank of torchrun spends most of its CPU time on
imports. `torchrun(..., fresh=True)` starts everything anew, as a user's command does.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
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
        code = _launch(Launch(1, num_ranks, "localhost:0", uuid.uuid4().hex, max_restarts, logs), arguments, {})
        return _answer(code, logs)


@contextmanager
def machines(
    environments: Sequence[Mapping[str, str]], num_ranks: int, arguments: Sequence[str], *, max_restarts: int = 0
) -> Iterator[Callable[[], Answer]]:
    """Runs `arguments` on ranks of several machines: agents with an environment each, which find each other by address.

    Yields what waits for all agents. Those that still run when it is left get SIGTERM.

    Args:
        environments: variables of each machine, beside those of this process.
        num_ranks: on each machine.
        arguments: as `torchrun` takes them.
        max_restarts: of each agent.
    """
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload([*PRELOADED])
    with tempfile.TemporaryDirectory() as logs, socket.create_server(("localhost", 0)) as free:
        endpoint, run = f"localhost:{free.getsockname()[1]}", uuid.uuid4().hex
        free.close()
        agents = []
        for number, environment in enumerate(environments):
            launch = Launch(len(environments), num_ranks, endpoint, run, max_restarts, f"{logs}/{number}")
            agents.append(forks.Process(target=_agent, args=(launch, arguments, {**os.environ, **environment})))
            agents[-1].start()

        def wait() -> Answer:
            for agent in agents:
                agent.join(SECONDS)
            return _answer(max(abs(agent.exitcode or 0) for agent in agents), logs)

        try:
            yield wait
        finally:
            for agent in agents:
                agent.terminate()
            for agent in agents:
                agent.join(SECONDS)


@dataclass(frozen=True)
class Launch:
    """Settings of one agent."""

    num_machines: int
    num_ranks: int
    endpoint: str
    run: str
    max_restarts: int
    logs: str


def _agent(launch: Launch, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Is the agent of one machine."""
    os.environ.update(environment)
    Path(launch.logs).mkdir()
    sys.exit(_launch(launch, arguments, environment))


def _launch(launch: Launch, arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    config = LaunchConfig(
        min_nodes=launch.num_machines,
        max_nodes=launch.num_machines,
        nproc_per_node=launch.num_ranks,
        logs_specs=DefaultLogsSpecs(log_dir=launch.logs, redirects=Std.ALL),
        run_id=launch.run,
        rdzv_backend="c10d",
        rdzv_endpoint=launch.endpoint,
        max_restarts=launch.max_restarts,
        start_method="forkserver",
    )
    try:
        with _handlers_restored(), _limited(), patch.dict(os.environ, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}"):
            elastic_launch(config, _rank)([*arguments], environment)
    except ChildFailedError:
        return 1
    return 0


def _answer(code: int, logs: str) -> Answer:
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


def _rank(arguments: list[str], environment: Mapping[str, str]) -> None:
    """Does in a forked rank what python does with `arguments`; forks have the environment of the first of them."""
    os.environ.update(environment, OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    is_module = arguments[0] == "-m"
    sys.argv = arguments[1:] if is_module else arguments
    if is_module:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(sys.argv[0]).parent))
        runpy.run_path(sys.argv[0], run_name="__main__")
