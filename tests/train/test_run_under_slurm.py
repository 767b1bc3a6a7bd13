"""A training that `--launcher slurm` submits: stopped by SIGUSR1 it asks for a requeue, and ends with the same bytes.

bash runs its script, as Slurm would; `make slurm` does the same under a real one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from helpers.recorded_slurm import RecordedSlurm
from helpers.torchrun import ROOT
from saepipe.cli import main
from saepipe.data.folders.artifact import COMMITTED
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

STEPS = 1000
TASK = {"SLURM_JOB_ID": "123", "SLURM_ARRAY_JOB_ID": "123", "SLURM_ARRAY_TASK_ID": "2"}


def started(script: str, folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, **TASK, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    return subprocess.Popen(["bash", script], cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_a_task_that_is_out_of_time_goes_on_to_the_same_bytes(
    config: Callable[..., TrainConfig],
    tmp_path: Path,
    recorded_slurm: RecordedSlurm,
    capsys: pytest.CaptureFixture[str],
) -> None:
    study = config(steps=STEPS, checkpoint_every=100_000, seeds=[0, 1, 2])
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    command = ["train", "-c", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs"), "--launcher", "slurm"]
    assert main([*command, "--sbatch", "array=1-2", "--format", "json"]) == 0
    script = json.loads(capsys.readouterr().out)["script"]

    first = started(script, tmp_path)
    run = tmp_path / "runs" / "base" / "seed-1"
    while first.poll() is None and not ((run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size):
        pass
    first.send_signal(signal.SIGUSR1)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 75
    (kept,) = (run / "checkpoints").iterdir()
    assert 0 < int(kept.name) < STEPS
    assert f"stopped by SIGUSR1; kept a checkpoint of\n  {run} at step {int(kept.name):,} of 1,000" in said
    assert "job 123_2 is requeued" in said
    assert recorded_slurm.calls[1:] == [["scontrol", "requeue", "123_2"]]

    second = started(script, tmp_path)
    assert second.wait(timeout=120) == 0
    assert len(recorded_slurm.calls) == 2
    assert [path.name for path in (tmp_path / "runs").glob("*/seed-*")] == ["seed-1"]  # the share of the second task
    undisturbed = train(study, tmp_path / "undisturbed", share="2/2")[0]
    assert (run / COMMITTED).read_text() == (undisturbed / COMMITTED).read_text()


def test_the_script_is_shown_without_submitting(
    config: Callable[..., TrainConfig],
    tmp_path: Path,
    recorded_slurm: RecordedSlurm,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "study.yaml").write_text(config().to_yaml())
    command = ["train", "-c", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs")]
    assert main([*command, "--launcher", "slurm", "--sbatch", "time=1", "--dry-run"]) == 0
    script = capsys.readouterr().out
    assert "#SBATCH --time=1\n" in script
    assert script.rstrip().endswith(f"-m saepipe train -c {tmp_path}/study.yaml --out {tmp_path}/runs")
    assert recorded_slurm.calls == []
    assert not (tmp_path / "runs").exists()
    assert main([*command, "--sbatch", "time=1"]) == 2
    assert "add --launcher slurm" in capsys.readouterr().err
    assert main([*command, "--launcher", "slurm", "--set", "steps=none"]) == 2  # before anything is submitted
    assert recorded_slurm.calls == []
