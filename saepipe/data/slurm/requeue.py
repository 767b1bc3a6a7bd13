"""A job that is out of time asks Slurm to start it again: it goes on from what it kept, if it kept anything."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping

from saepipe.data.errors import MachineError
from saepipe.data.ranks.kept import KEPT
from saepipe.data.ranks.launch import Ranks

FLAG = "SAEPIPE_REQUEUE"
"""Variable with the id of the job, set by the batch script of a job that is to start again."""


def without_progress(environment: Mapping[str, str] = os.environ) -> MachineError | None:
    """Returns the error of a job that would be requeued for ever; None if a requeue can bring it further.

    It was started again before, had all of its time, and has kept nothing new: no checkpoint, pool or result. Of
    several ranks the first knows of all.
    """
    job, restarts = environment.get(FLAG), int(environment.get("SLURM_RESTART_COUNT") or 0)
    if not job or not restarts or KEPT.number or not Ranks.of_environment(environment).is_first:
        return None
    times = "once" if restarts == 1 else f"{restarts} times"
    return MachineError(
        f"job {job} was started again {times} and kept nothing new in all of its time, so it is not requeued",
        hint="submit it again with more time (--sbatch time=...), or with smaller pools or less to measure at once",
    )


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
    warning = "" if KEPT.number else "; it has kept nothing new, and will not be requeued if that happens again"
    return f"job {job} is requeued and goes on from there{warning}"
