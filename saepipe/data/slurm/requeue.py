"""A job that is out of time asks Slurm to start it again: it goes on from what it kept."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping

from saepipe.data.ranks.launch import Ranks

FLAG = "SAEPIPE_REQUEUE"
"""Variable with the id of the job, set by the batch script of a job that is to start again."""


def requeue(environment: Mapping[str, str] = os.environ) -> str | None:
    """Requeues this job, once for all of its ranks; returns a sentence about it, or None if its script does not ask."""
    job = environment.get(FLAG)
    if not job or not Ranks.of_environment(environment).is_first:
        return None
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which Slurm ends the job, before scontrol has said so
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", "").strip() or error
        return f"job {job} could not be requeued, submit it again to resume: {reason}"
    return f"job {job} is requeued and goes on from there"
