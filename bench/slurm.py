"""Commands under Slurm that are preempted, out of time or cancelled go on to the bytes of undisturbed ones.

    make slurm
    python bench/slurm.py [--steps 8000] [--only NAME...]

Starts a Slurm of one machine (slurm.conf) and submits commands by `--launcher slurm` for each disturbance. Slurm
requeues a preempted job by itself; one that is out of time asks for it; a cancelled one is submitted again. Each job
must have been stopped in the middle, have said so in its log, and end with the bytes of a command that nothing
disturbed. One that is stopped twice without a step must end with an error. A requeued job waits two minutes: all take
about a quarter of an hour on a machine that has nothing else to do, and training must take a minute there (`--steps`).
Needs Debian's slurm-wlm and munge, and a user who may run daemons. Exit code 1 if a check fails. Writes
results/slurm.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from record import commit_of, write_result
from slurm_commands import Command, Evaluate, Study, Train, TrainSlowly, TrainStuck, prepare
from slurm_machine import field as field_of
from slurm_machine import said, slurm, wait_until

ROOT = Path(__file__).parents[1]
CLAIM = __doc__.split("\n\n")[0]
REQUEUED = "is requeued and goes on from there"
GIVEN_UP = "kept nothing new in all of its time, so it is not requeued"
SIGNALS = ("SIGTERM", "SIGUSR1")


def ends(
    jobs: int, *, restarts: int = 1, sigterm: int = 0, sigusr1: int = 0, requeues: int = 0, stuck: bool = False
) -> dict[str, Any]:
    """Returns what must come out of a disturbance."""
    return {
        "states": ["FAILED" if stuck else "COMPLETED"] * jobs,
        "restarts": [restarts] * jobs,
        "kept checkpoints at": {"SIGTERM": sigterm, "SIGUSR1": sigusr1},
        "asked for a requeue": requeues,
        "given up": int(stuck),
        "same bytes": not stuck,
    }


@dataclass
class Disturbance:
    """What happens to commands while they run; here nothing."""

    folder: Path
    name: ClassVar[str]
    commands: ClassVar[tuple[type[Command], ...]] = (Train,)
    sbatch: ClassVar[tuple[str, ...]] = ()
    expected: ClassVar[dict[str, Any]]
    """what must come out: see `outcome`"""
    jobs: list[str] = field(default_factory=list)
    """ids of the jobs that end by themselves, one per task"""

    @property
    def all(self) -> list[Command]:
        return [kind(self.folder, self.folder / self.name / kind.name) for kind in self.commands]

    def submit(self, command: Command) -> str:
        options = [part for option in self.sbatch for part in ("--sbatch", option)]
        return str(json.loads(command.run("--launcher", "slurm", *options, "--format", "json"))["job"])

    def begin(self) -> None:
        """Submits the commands, disturbs them once all run, and returns once they have stopped."""
        jobs = []
        for command in self.all:
            jobs.append(self.submit(command))
            wait_until(command.has_begun, f"{self.name}: {command.name} runs")
        self.disturb(*jobs)

    def disturb(self, *jobs: str) -> None:
        self.jobs += jobs

    def outcome(self) -> dict[str, Any]:
        """Waits for the end of the jobs; returns what their logs and Slurm say about them."""
        for job in self.jobs:
            wait_until(lambda job=job: field_of(job, "JobState") in ("COMPLETED", "FAILED"), f"{self.name} ends")
        log = "".join(command.log() for command in self.all)
        return {
            "states": [field_of(job, "JobState") for job in self.jobs],
            "restarts": [int(field_of(job, "Restarts")) for job in self.jobs],
            "kept checkpoints at": {name: log.count(f"stopped by {name}; kept a checkpoint of") for name in SIGNALS},
            "asked for a requeue": log.count(REQUEUED),
            "given up": log.count(GIVEN_UP),
            "same bytes": all(
                command.digests() == type(command)(self.folder, undisturbed(self.folder, command)).digests()
                for command in self.all
            ),
        }


class Preempted(Disturbance):
    """A job of a partition with priority takes all cores from a study and a training."""

    name, commands, sbatch = "preempted", (Study, Train), ("partition=low",)
    expected = ends(2, sigterm=2)

    def disturb(self, *jobs: str) -> None:
        self.jobs += jobs
        said("sbatch", "--partition=high", "--exclusive", "--output=/dev/null", "--wait", "--wrap=true")
        for job in jobs:
            wait_until(lambda job=job: field_of(job, "Restarts") == "1", "the jobs are preempted")


class Cancelled(Disturbance):
    """The user cancels the job, and later runs the same command again."""

    name, expected = "cancelled", ends(1, restarts=0, sigterm=1)

    def disturb(self, *jobs: str) -> None:
        (job,) = jobs
        said("scancel", job)
        wait_until(
            lambda: field_of(job, "JobState") == "CANCELLED" and field_of(job, "EndTime"), "the job is cancelled"
        )
        wait_until(lambda: job not in said("squeue", "--noheader", "--format=%i").split(), "the job has ended")
        self.jobs.append(self.submit(self.all[0]))


class OutOfTime(Disturbance):
    """Two tasks of an array have two minutes left once they train; Slurm looks at limits every half minute."""

    name, sbatch = "out of time", ("array=1-2", "time=60")
    expected = ends(2, sigusr1=2, requeues=2)

    def disturb(self, *jobs: str) -> None:
        self.jobs += [f"{jobs[0]}_1", f"{jobs[0]}_2"]
        for task in self.jobs:
            hours, minutes, _ = map(int, field_of(task, "RunTime").split(":"))
            said("scontrol", "update", f"JobId={task}", f"TimeLimit={60 * hours + minutes + 2}")
        for task in self.jobs:
            wait_until(lambda task=task: field_of(task, "Restarts") == "1", f"{task} is requeued")
            said("scontrol", "update", f"JobId={task}", "TimeLimit=60")


class RanksOutOfTime(Disturbance):
    """Two ranks get the signal that announces the end of their time; the checkpoint of one takes 45 seconds.

    KillWait is 30: the other rank must not leave before.
    """

    name, commands, sbatch = "ranks out of time", (TrainSlowly,), ("ntasks-per-node=2",)
    expected = ends(1, sigusr1=2, requeues=1)

    def disturb(self, *jobs: str) -> None:
        self.jobs += jobs
        announce_end(jobs[0])
        wait_until(lambda: field_of(jobs[0], "Restarts") == "1", f"{jobs[0]} is requeued")


class Stuck(Disturbance):
    """The time of a job ends twice before its first step."""

    name, commands = "stuck", (TrainStuck,)
    expected = ends(1, requeues=1, stuck=True)

    def disturb(self, *jobs: str) -> None:
        self.jobs += jobs
        announce_end(jobs[0])
        wait_until(lambda: field_of(jobs[0], "Restarts") == "1", f"{jobs[0]} is requeued")

    def outcome(self) -> dict[str, Any]:
        wait_until(lambda: self.all[0].log().count("stuck\n") == 2, f"{self.name}: it is started again")
        announce_end(self.jobs[0])
        return super().outcome()


class Evaluated(Disturbance):
    """Two tasks of an array share out the metrics of the runs."""

    name, commands, sbatch = "evaluated by an array", (Evaluate,), ("array=1-2",)
    expected = ends(2, restarts=0)

    def disturb(self, *jobs: str) -> None:
        self.jobs += [f"{jobs[0]}_1", f"{jobs[0]}_2"]


KINDS: tuple[type[Disturbance], ...] = (Preempted, OutOfTime, RanksOutOfTime, Stuck, Cancelled, Evaluated)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--only", nargs="+", choices=[kind.name for kind in KINDS], help="these disturbances")
    options = parser.parse_args()
    os.environ |= {"SAEPIPE_COMMIT": commit_of(ROOT), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder, options.steps)
        num_files = 0
        for kind in (Train, Evaluate, Study):
            command = kind(folder, undisturbed(folder, kind))
            print(f"undisturbed: {kind.name}", flush=True)
            command.run()
            num_files += len(command.digests())
        with slurm(folder / "slurm"):
            kinds = [kind(folder) for kind in KINDS if not options.only or kind.name in options.only]
            for kind in kinds:
                print(f"{kind.name}: running, until it is stopped", flush=True)
                kind.begin()
            outcomes = {}
            for kind in kinds:
                outcomes[kind.name] = kind.outcome()
                print(f"{kind.name}: {outcomes[kind.name]}", flush=True)
            version = said("sinfo", "--version").strip()
    write_result(
        "slurm", CLAIM, {"slurm": version, "steps": options.steps, "files": num_files, "disturbances": outcomes}
    )
    return int(any(outcomes[kind.name] != kind.expected for kind in kinds))


def undisturbed(folder: Path, command: Command | type[Command]) -> Path:
    """Returns the folder of a command that ran without Slurm."""
    return folder / "undisturbed" / command.name


def announce_end(job: str) -> None:
    """Sends what Slurm sends two minutes before the end of a job's time."""
    said("scancel", "--batch", "--signal=USR1", job)


if __name__ == "__main__":
    sys.exit(main())
