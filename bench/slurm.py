"""A training under Slurm that is preempted, out of time or cancelled goes on to the bytes of an undisturbed one.

    make slurm
    python bench/slurm.py [--steps 8000] [--only NAME...]

Starts a Slurm of one machine (slurm.conf) and submits a training by `--launcher slurm` for each disturbance. Slurm
requeues a preempted job by itself; one that is out of time asks for it; a cancelled one is submitted again. Each job
must have been stopped in the middle, have said so in its log, and end with the bytes of a training that nothing
disturbed. A requeued job waits two minutes: all take about ten on a machine that has nothing else to do, and training
must take a minute there (`--steps`). Needs Debian's slurm-wlm and munge, and a user who may run daemons. Exit code 1 if
a check fails. Writes results/slurm.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import yaml
from record import write_result
from slurm_machine import field as field_of
from slurm_machine import said, slurm, wait_until

CLAIM = __doc__.split("\n\n")[0]
NUM_RUNS = 4


@dataclass
class Disturbance(ABC):
    """Something that happens to a job while it trains."""

    folder: Path
    name: ClassVar[str]
    sbatch: ClassVar[tuple[str, ...]] = ()
    signal: ClassVar[str]
    """that its process gets"""
    jobs: list[str] = field(default_factory=list)
    """ids of the jobs that end by themselves, one per task"""

    @property
    def out(self) -> Path:
        return self.folder / self.name

    def submit(self) -> str:
        options = [part for option in self.sbatch for part in ("--sbatch", option)]
        command = [*trained_to(self.folder, self.out), "--launcher", "slurm", *options, "--format", "json"]
        return str(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["job"])

    def begin(self) -> None:
        """Submits the training, disturbs it once it trains, and returns once it has stopped."""
        job = self.submit()
        wait_until(lambda: self.begun(), f"{self.name} trains")
        self.disturb(job)

    def begun(self) -> bool:
        """Returns whether all runs have begun, those of each task and rank."""
        return sum(log.stat().st_size > 0 for log in self.out.glob("*/seed-*/metrics.jsonl")) == NUM_RUNS

    @abstractmethod
    def disturb(self, job: str) -> None: ...

    def end(self) -> dict[str, Any]:
        """Waits for the end of the training; returns what the log and Slurm say about it."""
        for job in self.jobs:
            wait_until(lambda job=job: field_of(job, "JobState") in ("COMPLETED", "FAILED"), f"{self.name} ends")
        log = "".join(path.read_text() for path in sorted(self.out.glob("log/*.out")))
        return {
            "states": [field_of(job, "JobState") for job in self.jobs],
            "restarts": [int(field_of(job, "Restarts")) for job in self.jobs],
            "stopped by": self.signal if f"stopped by {self.signal}; kept a checkpoint of" in log else None,
            "asked for a requeue": "is requeued and goes on from there" in log,
        }


class Preempted(Disturbance):
    """A job of a partition with priority takes all cores."""

    name, sbatch, signal = "preempted", ("partition=low",), "SIGTERM"

    def disturb(self, job: str) -> None:
        self.jobs.append(job)
        said("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wait", "--wrap=true")
        wait_until(lambda: field_of(job, "Restarts") == "1", "the job is preempted")


class Cancelled(Disturbance):
    """The user cancels the job, and later runs the same command again."""

    name, signal = "cancelled", "SIGTERM"

    def disturb(self, job: str) -> None:
        said("scancel", job)
        wait_until(
            lambda: field_of(job, "JobState") == "CANCELLED" and field_of(job, "EndTime"), "the job is cancelled"
        )
        wait_until(lambda: job not in said("squeue", "--noheader", "--format=%i").split(), "the job has ended")
        self.jobs.append(self.submit())


class OutOfTime(Disturbance):
    """Two tasks of an array have two minutes left once they train; Slurm looks at limits every half minute."""

    name, sbatch, signal = "out of time", ("array=1-2", "time=60"), "SIGUSR1"

    def disturb(self, job: str) -> None:
        self.jobs += [f"{job}_1", f"{job}_2"]
        for task in self.jobs:
            hours, minutes, _ = map(int, field_of(task, "RunTime").split(":"))
            said("scontrol", "update", f"JobId={task}", f"TimeLimit={60 * hours + minutes + 2}")
        for task in self.jobs:
            wait_until(lambda task=task: field_of(task, "Restarts") == "1", f"{task} is requeued")
            said("scontrol", "update", f"JobId={task}", "TimeLimit=60")


class RanksOutOfTime(Disturbance):
    """The ranks of a job get the signal that announces the end of their time."""

    name, sbatch, signal = "ranks out of time", ("ntasks-per-node=2",), "SIGUSR1"

    def disturb(self, job: str) -> None:
        self.jobs.append(job)
        said("scancel", "--batch", "--signal=USR1", job)
        wait_until(lambda: field_of(job, "Restarts") == "1", f"{job} is requeued")


KINDS: tuple[type[Disturbance], ...] = (Preempted, OutOfTime, RanksOutOfTime, Cancelled)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--only", nargs="+", choices=[kind.name for kind in KINDS], help="these disturbances")
    options = parser.parse_args()
    os.environ |= {"SAEPIPE_COMMIT": "bench", "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.steps)
        subprocess.run(trained_to(folder, folder / "undisturbed"), check=True, capture_output=True)
        undisturbed = digests(folder / "undisturbed")
        with slurm(folder / "slurm"):
            kinds = [kind(folder) for kind in KINDS if not options.only or kind.name in options.only]
            for kind in kinds:
                print(f"{kind.name}: training, until it is stopped", flush=True)
                kind.begin()
            outcomes = {kind.name: kind.end() for kind in kinds}
            for kind in kinds:
                outcomes[kind.name]["same bytes"] = digests(kind.out) == undisturbed
                print(f"{kind.name}: {outcomes[kind.name]}", flush=True)
            version = said("sinfo", "--version").strip()
    write_result(
        "slurm", CLAIM, {"slurm": version, "steps": options.steps, "files": len(undisturbed), "disturbances": outcomes}
    )
    return int(not all(as_claimed(kind, outcomes[kind.name]) for kind in kinds))


def as_claimed(kind: Disturbance, outcome: dict[str, Any]) -> bool:
    restarts = 0 if isinstance(kind, Cancelled) else 1
    return (
        set(outcome["states"]) == {"COMPLETED"}
        and set(outcome["restarts"]) == {restarts}
        and outcome["stopped by"] == kind.signal
        and outcome["asked for a requeue"] == (kind.signal == "SIGUSR1")
        and outcome["same bytes"]
    )


def prepare(folder: Path, steps: int) -> None:
    """Harvests a little of the toy, and writes the config of four runs."""
    harvest = [sys.executable, "-m", "saepipe", "harvest", "--set", "num_tokens=20k", "--set", "heldout_tokens=2k"]
    harvest += ["--set", "hooks=[blocks.2.hook_resid_post]", "--out", str(folder / "cache")]
    subprocess.run(harvest, check=True, capture_output=True)
    config = {
        "cache": str(folder / "cache"),
        "sae": {"name": "topk", "d_sae": 256, "k": 8},
        "steps": steps,
        "batch_size": 256,
        "checkpoint_every": 1_000_000,  # so that what goes on is what the signal has kept
        "device": "cpu",
        "seeds": [0, 1],
        "variants": [{"name": "topk"}, {"name": "auxk", "penalties": [{"name": "auxk"}]}],
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(config))


def trained_to(folder: Path, out: Path) -> list[str]:
    config = str(folder / "train.yaml")
    return [sys.executable, "-m", "saepipe", "train", "--config", config, "--out", str(out)]


def digests(out: Path) -> dict[str, str]:
    """Returns the digest of each file of the runs, by its path, but for logs, which have times in them."""
    names = ("sae/*", "config.yaml", "health.json", "manifest.jsonl", "COMMITTED")
    paths = sorted(path for name in names for path in out.glob(f"*/seed-*/{name}"))
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


if __name__ == "__main__":
    sys.exit(main())
