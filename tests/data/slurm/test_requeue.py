"""A job is requeued once, if its script says so, by the id that the script gives."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from helpers.recorded_slurm import RecordedSlurm
from saepipe.data.ranks.kept import KEPT
from saepipe.data.slurm.requeue import FLAG, requeue, without_progress

TORCHRUN = {"TORCHELASTIC_RUN_ID": "7", "TORCHELASTIC_RESTART_COUNT": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KEPT, "number", 3)


def test_a_job_is_requeued_by_its_id(recorded_slurm: RecordedSlurm) -> None:
    assert requeue({FLAG: "20_8"}) == "job 20_8 is requeued and goes on from there"
    assert recorded_slurm.calls == [["scontrol", "requeue", "20_8"]]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN  # by which Slurm ends the job at once


def test_other_processes_are_not_requeued(recorded_slurm: RecordedSlurm) -> None:
    assert requeue({"SLURM_JOB_ID": "20"}) is None
    assert recorded_slurm.calls == []


def test_the_first_rank_requeues_for_all(recorded_slurm: RecordedSlurm) -> None:
    said = [requeue({FLAG: "7", **TORCHRUN, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("1", "0")]
    assert said == [None, "job 7 is requeued and goes on from there"]
    assert len(recorded_slurm.calls) == 1


def test_a_refusal_is_said(recorded_slurm: RecordedSlurm, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded_slurm.answers("scontrol", "Requested operation is presently disabled for job 7", 1)
    said = "job 7 could not be requeued, submit it again to resume: "
    assert requeue({FLAG: "7"}) == f"{said}Requested operation is presently disabled for job 7"
    monkeypatch.setenv("PATH", "")
    assert str(requeue({FLAG: "7"})).startswith(f"{said}[Errno 2]")


@pytest.mark.parametrize(("restarts", "times"), [("1", "once"), ("4", "4 times")])
def test_a_job_that_kept_nothing_twice_is_not_requeued(
    monkeypatch: pytest.MonkeyPatch, recorded_slurm: RecordedSlurm, restarts: str, times: str
) -> None:
    restarted = {FLAG: "7", "SLURM_RESTART_COUNT": restarts}
    assert without_progress(restarted) is None
    monkeypatch.setattr(KEPT, "number", 0)
    assert str(without_progress(restarted)).startswith(f"job 7 was started again {times} and kept nothing new")
    assert without_progress({"SLURM_RESTART_COUNT": restarts}) is None  # of a script of one's own
    assert without_progress({FLAG: "7"}) is None
    assert without_progress({**restarted, **TORCHRUN, "RANK": "1", "LOCAL_RANK": "1"}) is None
    assert requeue({FLAG: "7"}) == (
        "job 7 is requeued and goes on from there; it has kept nothing new, and will not be requeued if that happens "
        "again"
    )
