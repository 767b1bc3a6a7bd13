"""The batch script of a command.

Its last line is `exec`, so that signals reach the command and not a shell: with a shell around it, scancel would kill
the command at once (Slurm 22.05). SIGUSR1 comes two minutes before the end of the time: the command keeps what it has
and asks for a requeue (`requeue.py`). Of several ranks, srun is in its place: it starts them, hands on the signal, and
ends all if one fails, but lets the first take its time if the others are done.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from saepipe.data.bucket_address import address_of
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import LOG
from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.share import Share
from saepipe.data.slurm.options import Options, as_line, num_nodes, num_tasks, ranks_per_node, read_options
from saepipe.data.slurm.requeue import FLAG

SHARED_OUT = ("train", "evaluate")
"""Commands of which a job array makes shares."""

OVER_RANKS = ("harvest", "train")
"""Commands that several ranks may run."""

SIGNAL = "B:USR1@120"
"""What comes two minutes before the end: without B it would go to srun's tasks; a single process is not one."""

_RENDEZVOUS = """\
export MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"
export MASTER_PORT="$((20000 + SLURM_JOB_ID % 10000))"
export TORCHELASTIC_RUN_ID="$SLURM_JOB_ID" TORCHELASTIC_RESTART_COUNT="${SLURM_RESTART_COUNT:-0}"
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"
"""
"""Variables of torchrun that are the same in all ranks, and their cores, which srun does not take from sbatch."""

_RANK = 'RANK="$SLURM_PROCID" WORLD_SIZE="$SLURM_NTASKS" LOCAL_RANK="$SLURM_LOCALID" LOCAL_WORLD_SIZE={ranks} exec "$@"'
"""Variables of torchrun that differ, and the command."""


@dataclass(frozen=True)
class Job:
    """A command as a job."""

    command: tuple[str, ...]
    """name and arguments, without those that are about its submission"""
    options: Options
    """of sbatch, as given"""
    folder: Path
    """for the script and the log"""

    @classmethod
    def of(cls, arguments: Sequence[str], sbatch: Sequence[str], outs: Sequence[Path]) -> Self:
        """Makes the job of a command.

        Args:
            arguments: of the command line, which also say that it is to be a job.
            sbatch: options of sbatch.
            outs: what the command writes to; the log goes to the folder that has all of it, or to the current one
                if there is none, or if it is in a bucket.

        Raises:
            ConfigError: if an option is wrong, or the command cannot run in several tasks or ranks.
        """
        common = Path(os.path.commonpath([os.path.abspath("." if address_of(out) else out) for out in outs]))
        folder = (Path.cwd() if common == Path(common.anchor) else common) / LOG
        command = without(arguments, values=("--launcher", "--sbatch", "--format"), flags=("--dry-run",))
        job = cls(command, read_options(sbatch), folder)
        name = job.command[0]
        if job.is_array and name not in SHARED_OUT:
            raise ConfigError(f"a job array cannot share out a {name}", hint="drop --sbatch array")
        if job.is_array and len(without(command, values=("--share",))) < len(command):
            raise ConfigError("a job array shares out the work by itself", hint="drop --share or --sbatch array")
        if ranks_per_node(job.options) and name not in OVER_RANKS:
            raise ConfigError(f"{name} runs in one process", hint="drop --sbatch ntasks-per-node and nodes")
        if not ranks_per_node(job.options) and not re.match("R?BR?:", sent := job.options.get("signal") or SIGNAL):
            raise ConfigError(f"signal={sent} would not reach the command", hint=f"--sbatch signal={SIGNAL}")
        return job

    @property
    def name(self) -> str:
        return f"saepipe-{self.command[0]}"

    @property
    def is_array(self) -> bool:
        return "array" in self.options

    @property
    def ranks(self) -> Ranks:
        """The first of the ranks that are asked for."""
        here = ranks_per_node(self.options) or 1
        return Ranks(0, num_nodes(self.options) * here, 0, here)

    @property
    def waits(self) -> bool:
        """True if it waits for other jobs, which may make what it needs."""
        return "dependency" in self.options

    @property
    def share(self) -> Share | None:
        """The first of the shares of its tasks; None if it is no array."""
        return Share(1, num_tasks(self.options)) if self.is_array else None

    @property
    def path(self) -> Path:
        """Path of the script."""
        return self.folder / f"{self.name}.sh"

    def log(self, job_id: str) -> str:
        """Path of the log of a job; an array has one for each of its tasks."""
        return str(self.folder / f"{self.name}-{job_id}{'_*' if self.is_array else ''}.out")

    def script(self) -> str:
        """Returns the text of the script."""
        folder = str(self.folder).replace("%", "%%")
        own: Options = {
            "job-name": self.name,
            "output": f"{folder}/{self.name}-{'%A_%a' if self.is_array else '%j'}.out",
            "open-mode": "append",
            "requeue": None,
            "signal": SIGNAL,
        }
        lines = [as_line(*option) for option in (own | self.options).items()]
        return "\n".join(["#!/bin/bash", *lines, "", f"export {FLAG}={self._id}", self._last_line, ""])

    @property
    def _id(self) -> str:
        """Id of the running job, in the shell: SLURM_JOB_ID of one task means the whole array to scontrol."""
        return '"${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"' if self.is_array else '"$SLURM_JOB_ID"'

    @property
    def _last_line(self) -> str:
        command = shlex.join([sys.executable, "-m", "saepipe", *self.command])
        if self.is_array:
            command += f' --share "$SLURM_ARRAY_TASK_ID/{num_tasks(self.options)}"'
        if (ranks := ranks_per_node(self.options)) is None:
            return f"exec {command}"
        srun = f"srun --ntasks-per-node={ranks} --kill-on-bad-exit=1 --wait=0"
        return f"{_RENDEZVOUS}exec {srun} bash -c {shlex.quote(_RANK.format(ranks=ranks))} rank \\\n  {command}"


def without(arguments: Sequence[str], *, values: Sequence[str], flags: Sequence[str] = ()) -> tuple[str, ...]:
    """Returns the arguments without some options, of which `values` have a value and `flags` none."""
    kept, remaining = [], iter(arguments)
    for argument in remaining:
        if argument in values:
            next(remaining, None)
        elif argument not in flags and argument.partition("=")[0] not in values:
            kept.append(argument)
    return tuple(kept)
