"""A job is requeued once, if its script says so, by the id that the script gives."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from helpers.recorded_slurm import RecordedSlurm
from saepipe.data.slurm.requeue import FLAG, requeue

TORCHRUN = {"TORCHELASTIC_RUN_ID": "7", "TORCHELASTIC_RESTART_COUNT": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}


@pytest.fixture(autouse=True)
def sigterm() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


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
