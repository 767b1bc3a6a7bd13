"""A training that `--launcher slurm` submits: stopped by SIGUSR1 it asks for a requeue, and ends with the same bytes.

bash runs its script, as Slurm would; `make slurm` does the same under a real one.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from helpers.recorded_slurm import RecordedSlurm
from helpers.torchrun import ROOT
from saepipe.cli import main
from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.ranks.kept import KEPT
from saepipe.data.slurm.requeue import FLAG
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

STEPS = 1000
MISTAKES = {
    ("--set", "steps=none"): "steps = 'none'",
    ("--set", "plugins=[none.py]"): "plugin none.py is not a Python file",
    ("--set", "parallel.latents=2"): "parallel: latents 2 x data 1 needs 2 ranks, and there are 1",
    ("--cache", "elsewhere"): "cache elsewhere is not there yet",
}
TASK = {"SLURM_JOB_ID": "123", "SLURM_ARRAY_JOB_ID": "123", "SLURM_ARRAY_TASK_ID": "2"}


def started(script: str, folder: Path, **of_job: str) -> subprocess.Popen[str]:
    environment = {**os.environ, **(of_job or TASK), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
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
    for mistake, problem in MISTAKES.items():  # before anything is submitted
        assert main([*command, "--launcher", "slurm", *mistake]) == 2
        assert problem in capsys.readouterr().err
    assert recorded_slurm.calls == []


def free_port() -> int:
    """Returns a port among those that a job takes by its id."""
    for port in range(20_000 + os.getpid() % 9_000, 30_000):
        with socket.socket() as listener, suppress(OSError):
            listener.bind(("localhost", port))
            return port
    raise OSError("no port is free")


SRUN = """#!{python}
# Starts two tasks, hands on SIGUSR1, and ends the other 2 s after one has failed, as Slurm does after KillWait.
import os, signal, subprocess, sys, time
command = sys.argv[sys.argv.index("bash"):]
of_task = [{{"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task), "SLURM_NTASKS": "2"}} for task in range(2)]
tasks = [subprocess.Popen(command, env={{**os.environ, **names}}) for names in of_task]
signal.signal(signal.SIGUSR1, lambda *_: [task.send_signal(signal.SIGUSR1) for task in tasks])
while not any(task.poll() for task in tasks) and None in [task.poll() for task in tasks]:
    time.sleep(0.05)
end = time.monotonic() + 2
while None in [task.poll() for task in tasks] and time.monotonic() < end:
    time.sleep(0.05)
for task in tasks:
    task.kill()
sys.exit(max(abs(task.wait()) for task in tasks))
"""

SLOW = """
import os, time
from saepipe.train import live_run

save = live_run.save_checkpoint

def slow(*args, **kwargs):
    time.sleep(5)
    save(*args, **kwargs)

if os.environ.get("RANK") == "1":
    live_run.save_checkpoint = slow
"""


def test_ranks_keep_their_checkpoints_however_long_one_takes(
    config: Callable[..., TrainConfig],
    tmp_path: Path,
    recorded_slurm: RecordedSlurm,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    study = config(steps=100_000, checkpoint_every=100_000, seeds=[0, 1], plugins=[str(tmp_path / "slow.py")])
    (tmp_path / "study.yaml").write_text(study.to_yaml())
    command = ["train", "-c", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs"), "--launcher", "slurm"]
    assert main([*command, "--sbatch", "ntasks-per-node=2", "--format", "json"]) == 0
    recorded_slurm.makes("srun", SRUN)
    recorded_slurm.answers("scontrol", "localhost")

    job = started(json.loads(capsys.readouterr().out)["script"], tmp_path, SLURM_JOB_ID=str(free_port() - 20_000))
    runs = [tmp_path / "runs" / "base" / f"seed-{seed}" for seed in (0, 1)]
    while job.poll() is None and not all(
        log.exists() and log.stat().st_size for log in (r / "metrics.jsonl" for r in runs)
    ):
        time.sleep(0.05)
    job.send_signal(signal.SIGUSR1)
    _, said = job.communicate(timeout=120)
    assert job.returncode == 75, said
    assert [len([*(run / "checkpoints").glob("*/state.json")]) for run in runs] == [1, 1]
    assert said.count("stopped by SIGUSR1; kept a checkpoint of") == 2
    assert recorded_slurm.calls[-1][:2] == ["scontrol", "requeue"]


class OutOfTimeAtStart(Silent):
    """The time of the job is nearly up when its first runs begin."""

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        signal.raise_signal(signal.SIGUSR1)


def test_a_job_that_keeps_nothing_twice_is_not_requeued(
    config: Callable[..., TrainConfig],
    tmp_path: Path,
    recorded_slurm: RecordedSlurm,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "study.yaml").write_text(config().to_yaml())
    command = ["train", "-c", str(tmp_path / "study.yaml"), "--out", str(tmp_path / "runs")]
    monkeypatch.setattr("saepipe.data.terminal.console.Bar", lambda _: OutOfTimeAtStart())
    monkeypatch.setattr(KEPT, "number", 0)
    monkeypatch.setenv(FLAG, "7")
    sigterm = signal.getsignal(signal.SIGTERM)
    try:
        assert main(command) == 75
    finally:
        signal.signal(signal.SIGTERM, sigterm)  # which a job ignores once it is requeued
    assert "it has kept nothing new, and will not be requeued if that happens again" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert main(command) == 3
    assert "job 7 was started again once and kept nothing new in all of its time" in capsys.readouterr().err
    assert recorded_slurm.calls == [["scontrol", "requeue", "7"]]
