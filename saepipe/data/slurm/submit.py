"""Submission of a job: its script is written beside its log, and sbatch is given it."""

from __future__ import annotations

import subprocess

from saepipe.data.errors import ConfigError, MachineError
from saepipe.data.folders.artifact import write_file
from saepipe.data.slurm.script import Job


def submit(job: Job) -> dict[str, str]:
    """Submits a job; returns its id, its script and its log.

    Raises:
        MachineError: if there is no sbatch here.
        ConfigError: if sbatch refuses the job, in its words.
    """
    job.folder.mkdir(parents=True, exist_ok=True)
    write_file(job.path, job.script().encode())
    try:
        printed = subprocess.run(["sbatch", "--parsable", str(job.path)], check=True, capture_output=True, text=True)
    except FileNotFoundError:
        raise MachineError("sbatch is not found here", hint="run this where Slurm's commands are installed") from None
    except subprocess.CalledProcessError as error:
        message = f"sbatch refused the job: {error.stderr.strip()}"
        raise ConfigError(message, hint=f"change its options by --sbatch KEY=VALUE; see {job.path}") from None
    job_id = printed.stdout.strip().partition(";")[0]  # JOB or JOB;CLUSTER
    return {"job": job_id, "script": str(job.path), "log": job.log(job_id)}
