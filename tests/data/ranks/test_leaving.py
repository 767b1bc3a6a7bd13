"""Ranks that srun has started are stopped: none leaves before all have kept what they have, and each knows of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.distributed import HashStore

from helpers.repository import ROOT
from saepipe.data.errors import ConfigError, OutOfTime
from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.leaving import leaving_together

RANK = """
import sys, time
from saepipe.data.errors import OutOfTime
from saepipe.data.ranks.group import process_group
from saepipe.data.ranks.kept import KEPT
from saepipe.data.ranks.launch import Ranks
from saepipe.train.shared_out import SharedOut

ranks = Ranks.of_environment()
for work in (lambda: process_group(ranks, seconds=60), lambda: SharedOut.of(ranks).leaving_together()):
    try:
        with work():
            time.sleep(2 * ranks.rank)
            KEPT.number, kept = 3 * ranks.rank, time.time()
            raise OutOfTime("stopped", hint="")
    except OutOfTime:
        sys.stdout.write(f"{kept} {time.time()} {KEPT.number}\\n")
        time.sleep(1)
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return int(listener.getsockname()[1])


def test_the_first_rank_that_is_done_waits_for_the_last(tmp_path: Path) -> None:
    """The others leave after it, once the store is gone that it serves: a rank that has left lets srun end the rest."""
    (tmp_path / "rank.py").write_text(RANK)
    shared = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "TORCHELASTIC_RUN_ID": "7"}
    shared |= {"TORCHELASTIC_RESTART_COUNT": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "PYTHONPATH": str(ROOT)}
    ranks = [
        subprocess.Popen(
            [sys.executable, tmp_path / "rank.py"],
            env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [
        [[float(word) for word in line.split()] for line in rank.communicate(timeout=120)[0].splitlines()]
        for rank in ranks
    ]
    assert [rank.returncode for rank in ranks] == [0, 0]
    for first, second in zip(*said, strict=True):  # in a process group, and without one
        assert first[0] < second[0] < first[1] < second[1]
        assert first[2] == 3  # what all have kept


def test_a_rank_that_does_not_come_is_not_waited_for_for_ever() -> None:
    began = time.monotonic()
    with pytest.raises(OutOfTime), leaving_together(Ranks(0, 2), HashStore(), 0.3, {}):
        raise OutOfTime("stopped", hint="")
    assert time.monotonic() - began > 0.3


@pytest.mark.parametrize(
    ("error", "ranks", "environment"),
    [
        (ConfigError("wrong"), Ranks(0, 2), {}),  # srun ends the others
        (OutOfTime("stopped", hint=""), Ranks(), {}),
        (OutOfTime("stopped", hint=""), Ranks(0, 2), {"TORCHELASTIC_USE_AGENT_STORE": "True"}),  # torchrun waits
    ],
)
def test_others_leave_at_once(error: BaseException, ranks: Ranks, environment: dict[str, str]) -> None:
    store = HashStore()
    with pytest.raises(type(error)), leaving_together(ranks, store, 60, environment):
        raise error
    assert store.add("leaving", 0) == 0
