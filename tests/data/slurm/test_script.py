"""Batch scripts: what bash makes of them, with the variables that Slurm sets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from saepipe.data.errors import ConfigError
from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.share import Share
from saepipe.data.slurm.script import Job, without

pytestmark = pytest.mark.quick

SHOW = "import json, os, sys; print(json.dumps([sys.argv[1:], dict(os.environ)]))"
RANKED = {"SLURM_JOB_ID": "31234", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_NTASKS": "4", "SLURM_RESTART_COUNT": "2"}


def run_by_bash(script: str, folder: Path, slurm: dict[str, str]) -> tuple[list[str], dict[str, str]]:
    """Runs a script with a command in place of saepipe; returns its arguments and environment."""
    (folder / "saepipe").mkdir(exist_ok=True)
    (folder / "saepipe" / "__main__.py").write_text(SHOW)
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **slurm}
    run = subprocess.run(
        ["bash"], input=script, cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    arguments, seen = json.loads(run.stdout)
    return arguments, seen


def test_options_of_the_user_replace_ours(tmp_path: Path) -> None:
    job = Job.of(["train"], ["time=8:00:00", "signal=B:USR1@600"], [tmp_path / "my runs" / "100%"])
    assert job.script().splitlines() == [
        "#!/bin/bash",
        "#SBATCH --job-name=saepipe-train",
        f'#SBATCH --output="{tmp_path}/my runs/100%%/log/saepipe-train-%j.out"',
        "#SBATCH --open-mode=append",
        "#SBATCH --requeue",
        "#SBATCH --signal=B:USR1@600",
        "#SBATCH --time=8:00:00",
        "",
        'export SAEPIPE_REQUEUE="$SLURM_JOB_ID"',
        f"exec {sys.executable} -m saepipe train",
    ]
    assert job.log("7") == f"{tmp_path}/my runs/100%/log/saepipe-train-7.out"


def test_the_command_comes_through_a_shell(tmp_path: Path) -> None:
    arguments = ["train", "--launcher", "slurm", "--set", "sae={name: topk, k: '8'}", "--sbatch=time=1", "--dry-run"]
    job = Job.of([*arguments, "--out", "a $b"], [], [tmp_path])
    seen, environment = run_by_bash(job.script(), tmp_path, {"SLURM_JOB_ID": "12"})
    assert seen == ["train", "--set", "sae={name: topk, k: '8'}", "--out", "a $b"]
    assert environment["SAEPIPE_REQUEUE"] == "12"


def test_a_task_of_an_array_does_its_share(tmp_path: Path) -> None:
    job = Job.of(["evaluate", "runs"], ["array=1-8%2"], [tmp_path])
    assert f"#SBATCH --output={tmp_path}/log/saepipe-evaluate-%A_%a.out" in job.script()
    task = {"SLURM_JOB_ID": "20", "SLURM_ARRAY_JOB_ID": "20", "SLURM_ARRAY_TASK_ID": "8"}
    seen, environment = run_by_bash(job.script(), tmp_path, task)
    assert seen == ["evaluate", "runs", "--share", "8/8"]
    assert environment["SAEPIPE_REQUEUE"] == "20_8"  # 20 would be the whole array


def test_ranks_get_the_variables_of_torchrun(tmp_path: Path) -> None:
    lines = {"srun": 'while [ "$1" != bash ]; do shift; done; exec "$@"', "scontrol": 'printf "n1\\nn2\\n"'}
    for name, line in lines.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    job = Job.of(["harvest"], ["nodes=2", "ntasks-per-node=2", "cpus-per-task=6"], [tmp_path])
    rank = {**RANKED, "SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURM_CPUS_PER_TASK": "6"}
    seen, environment = run_by_bash(job.script(), tmp_path, rank)
    assert seen == ["harvest"]
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    assert [environment[name] for name in names] == ["3", "4", "1", "2", "n1", "21234"]
    assert environment["TORCHELASTIC_RUN_ID"] == "31234"
    assert environment["TORCHELASTIC_RESTART_COUNT"] == "2"
    assert environment["OMP_NUM_THREADS"] == environment["SRUN_CPUS_PER_TASK"] == "6"


@pytest.mark.parametrize(
    ("command", "sbatch", "said"),
    [
        ("harvest", ["array=1-2"], "a job array cannot share out a harvest"),
        ("study", ["array=1-1"], "a job array cannot share out a study"),
        ("train --share=1/2", ["array=1-2"], "a job array shares out the work by itself"),
        ("evaluate --share 1/2", ["array=1-2"], "a job array shares out the work by itself"),
        ("evaluate", ["ntasks-per-node=2"], "evaluate runs in one process"),
        ("study", ["nodes=2"], "study runs in one process"),
        ("train", ["signal=USR1@600"], "signal=USR1@600 would not reach the command"),
    ],
)
def test_what_a_command_cannot_do_is_refused(command: str, sbatch: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Job.of(command.split(), sbatch, [Path("out")])


def test_the_log_lies_where_all_is_written(tmp_path: Path) -> None:
    runs = [tmp_path / "runs" / name for name in ("l1/seed-0", "l1/seed-1", "tanh/seed-0")]
    assert Job.of(["evaluate"], [], runs).folder == tmp_path / "runs" / "log"
    assert Job.of(["evaluate"], [], runs[:1]).folder == runs[0] / "log"
    assert Job.of(["train"], [], [Path("s3:/bucket/runs")]).folder == Path.cwd() / "log"


def test_arguments_are_left_out_with_their_values() -> None:
    arguments = ["a", "--x", "1", "--x=2", "--y", "--xy", "3"]
    assert without(arguments, values=["--x"], flags=["--y"]) == ("a", "--xy", "3")


def test_the_signal_of_ranks_may_go_to_srun_or_to_them(tmp_path: Path) -> None:
    for signal in ("B:USR1@600", "USR1@600"):
        assert f"#SBATCH --signal={signal}\n" in Job.of(["train"], [f"signal={signal}", "nodes=2"], [tmp_path]).script()


def test_a_job_knows_its_ranks_its_shares_and_what_it_waits_for(tmp_path: Path) -> None:
    alone = Job.of(["train"], [], [tmp_path])
    assert (alone.ranks, alone.share, alone.waits) == (Ranks(), None, False)
    several = Job.of(["train"], ["nodes=3", "ntasks-per-node=2", "array=1-4%2", "dependency=afterok:7"], [tmp_path])
    assert (several.ranks, several.share, several.waits) == (Ranks(0, 6, 0, 2), Share(1, 4), True)


def test_runs_that_share_no_folder_are_logged_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    job = Job.of(["evaluate", "/home/runs", "/scratch/runs"], [], [Path("/home/runs"), Path("/scratch/runs")])
    assert job.path == tmp_path / "log" / "saepipe-evaluate.sh"
