"""What each command refuses at its start, asked when it is submitted as a job: it would wait in a queue to fail.

Every check is the command's own. What other jobs may make first is looked at only if the job waits for none
(`--sbatch dependency=...`). The device is that of another machine, so none is looked for here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import is_committed
from saepipe.data.folders.resume_mode import ResumeMode
from saepipe.data.ranks.share import Share
from saepipe.data.remote.places import folder_of, refresh
from saepipe.data.remote.run_folders import run_folders
from saepipe.data.slurm.script import Job
from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.model.testbed import Passes
from saepipe.evaluate.model.testbeds import Testbeds
from saepipe.evaluate.plan import plan_jobs
from saepipe.evaluate.streaming.run import checked_harvest
from saepipe.evaluate.study.arm_configs import arms_of, train_config
from saepipe.evaluate.study.config import StudyConfig
from saepipe.evaluate.study.record import Record
from saepipe.evaluate.study.run import require_power
from saepipe.evaluate.study.train_arms import Study
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.over_ranks import check_ranks
from saepipe.harvest.resume import inspect_folder
from saepipe.harvest.text import check_source
from saepipe.train.config import TrainConfig
from saepipe.train.from_harvest import check_stream
from saepipe.train.parallel import mesh
from saepipe.train.plan import Planned, plan_runs
from saepipe.train.run import check_folders
from saepipe.train.trackers.base import check_installed
from saepipe.train.variants import expand


def check_harvest(job: Job, config: HarvestConfig, out: Path, resume: ResumeMode = "auto") -> None:
    """Raises ConfigError if a harvest could not begin in the ranks of a job, or in its folder."""
    out = folder_of(out)
    check_ranks(config, job.ranks)
    if not job.waits:
        refresh(out)
        check_source(config.dataset)
        inspect_folder(out, config, resume)


def check_train(job: Job, config: TrainConfig, out: Path, share: Share, resume: ResumeMode) -> None:
    """Raises ConfigError if a training could not begin in the tasks of a job, from its cache, or in its folders."""
    out = folder_of(out)
    _check_training(job, config, out, job.share or share)
    if not job.waits and config.stream is None:
        refresh(out)
        _check_runs(config, out, partial(check_folders, resume=resume))


def check_evaluate(job: Job, runs: Sequence[Path], config: EvaluateConfig, out: Path | None) -> None:
    """Raises ConfigError if runs could not be evaluated."""
    if job.waits:
        return
    for run in run_folders(runs):
        _require_made(run, "run")
    anywhere = config.model_copy(update={"device": "cpu"})
    plan_jobs(runs, anywhere, folder_of(out) if out else None, Testbeds(anywhere, Passes()), Silent().say)


def check_study(job: Job, config: StudyConfig, out: Path) -> None:
    """Raises ConfigError if an arm of a study could not be trained, or the study could not show anything."""
    out = folder_of(out)
    study = Study(config, tuple(arms_of(config)), out)
    training = train_config(config, study.arms, config.all_seeds, {}, study.cache)
    _check_training(job, training, out, Share())
    if job.waits:
        return
    refresh(out)
    require_power(config, Record.read(out), Silent())
    if config.harvest is not None:
        check_harvest(job, config.harvest, study.cache)
    if config.harvest is None or is_committed(study.cache):
        _check_runs(training, out)


def _check_training(job: Job, config: TrainConfig, out: Path, share: Share) -> None:
    """Raises ConfigError for what the config and the job alone show; MachineError if a tracker is not installed."""
    mesh.check_ranks(config.parallel, job.ranks)
    check_stream(config, out, job.ranks, share)
    if config.stream is not None:
        checked_harvest(config.stream, out)
    check_installed(sorted({name for run in expand(config) for name in run.config.trackers}))


def _check_runs(config: TrainConfig, out: Path, check: Callable[[list[Planned]], None] = lambda planned: None) -> None:
    """Raises ConfigError if runs cannot be planned, or fail a check, on the device of the config; `auto` may be two."""
    runs = [run.config for run in expand(config)]
    for path in dict.fromkeys(path for run in runs for path in (run.cache, run.other_cache) if path is not None):
        _require_made(path, "cache")
    refusals = []
    for name in ("cuda", "cpu") if config.device == "auto" else (config.device,):
        try:
            check(plan_runs(config, out, mesh.planned_mesh(config.parallel), device=torch.device(name)))
            return
        except ConfigError as error:
            refusals.append(error)
    raise min(refusals, key=lambda error: len(error.message))  # which of them has no differences of the device


def _require_made(path: Path, kind: str) -> None:
    """Raises ConfigError if a cache or a run is not finished."""
    refresh(folder := folder_of(path))
    if not is_committed(folder):
        hint = "make it first, or let the job wait for the one that does: --sbatch dependency=afterok:JOB"
        raise ConfigError(f"{kind} {folder} is not there yet", hint=hint)
