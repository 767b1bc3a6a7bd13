"""Submission: the script is kept beside the log, and what sbatch says is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.recorded_slurm import RecordedSlurm
from saepipe.data.errors import ConfigError, MachineError
from saepipe.data.slurm.script import Job
from saepipe.data.slurm.submit import submit


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job.of(["train", "--out", str(tmp_path / "runs")], ["array=1-2"], [tmp_path / "runs"])


@pytest.mark.parametrize("printed", ["41", "41;cluster"])
def test_the_script_is_kept_and_submitted(
    recorded_slurm: RecordedSlurm, job: Job, tmp_path: Path, printed: str
) -> None:
    recorded_slurm.answers("sbatch", printed)
    script, log = (str(tmp_path / "runs" / "log" / f"saepipe-train{end}") for end in (".sh", "-41_*.out"))
    assert submit(job) == {"job": "41", "script": script, "log": log}
    assert recorded_slurm.calls == [["sbatch", "--parsable", script]]
    assert Path(script).read_text() == job.script()


def test_a_refusal_is_said_in_the_words_of_sbatch(recorded_slurm: RecordedSlurm, job: Job) -> None:
    recorded_slurm.answers("sbatch", "sbatch: error: invalid partition specified: gpus", 1)
    with pytest.raises(ConfigError, match="sbatch refused the job: sbatch: error: invalid partition specified: gpus"):
        submit(job)


def test_a_machine_without_slurm_says_so(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MachineError, match="sbatch is not found here"):
        submit(job)
