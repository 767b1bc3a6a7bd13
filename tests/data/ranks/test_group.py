"""Ranks meet, come up again after one of them has died, and name the one that does not come."""

from __future__ import annotations

from pathlib import Path

from helpers.torchrun import torchrun

MEET = """
import sys, time
from saepipe.data.errors import ConfigError, MachineError
from saepipe.data.ranks.group import meet, process_group
from saepipe.data.ranks.launch import Ranks

ranks = Ranks.of_environment()
with process_group(ranks, seconds=60):  # as an earlier command of the same process may have
    meet(ranks, "joined an earlier group")
try:
    with process_group(ranks, seconds=60):
        if ranks.life == 0 and {dies}:
            sys.exit(3 * (ranks.rank == 1))
        if {late} and ranks.rank == 2:
            time.sleep(5)
        if {fails} and ranks.is_first:
            raise ConfigError("there is no such text", hint="check the path")
        meet(ranks, "written their pools", seconds={seconds})
except (ConfigError, MachineError) as error:
    sys.stdout.write(f"rank {{ranks.rank}}: {{error}}\\n")
    sys.stdout.flush()
    time.sleep(5)  # so that all reasons are out before torchrun ends all
    sys.exit(0)
sys.stdout.write(f"rank {{ranks.rank}} of life {{ranks.life}} has met {{ranks.size - 1}} others\\n")
"""


def script(folder: Path, *, dies: bool = False, late: bool = False, fails: bool = False, seconds: float = 60) -> str:
    path = folder / "meet.py"
    path.write_text(MEET.format(dies=dies, late=late, fails=fails, seconds=seconds))
    return str(path)


def test_a_group_comes_up_again_after_a_rank_has_died(tmp_path: Path) -> None:
    run = torchrun(2, [script(tmp_path, dies=True)], max_restarts=1, fresh=True)
    assert run.returncode == 0, run.stderr
    assert "rank 0 of life 1 has met 1 others" in run.stdout
    assert "rank 1 of life 1 has met 1 others" in run.stdout


def test_the_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    run = torchrun(3, [script(tmp_path, late=True, seconds=2)])
    said = next(line for line in run.stdout.splitlines() if line.startswith("rank 0:"))
    assert "waited 2 s for all ranks to have written their pools" in said
    assert "2" in said.partition("pools: ")[2]


def test_the_rank_that_has_failed_is_named_with_its_reason(tmp_path: Path) -> None:
    run = torchrun(2, [script(tmp_path, fails=True)])
    assert "rank 0: there is no such text" in run.stdout
    assert "rank 1: rank 1 ends, since rank 0 has failed: there is no such text" in run.stdout
