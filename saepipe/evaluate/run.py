"""Evaluation from top to bottom: runs, their cache, the model, one pass for all of them, a JSON file each."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saepipe.data import artifact
from saepipe.data.cache import Cache
from saepipe.data.device import pick_device
from saepipe.data.progress import Progress, Silent
from saepipe.evaluate.artifacts import Artifacts
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.envelope import envelope
from saepipe.evaluate.jobs import Job, by_hook, plan_jobs
from saepipe.evaluate.model import load_model_of, model_config
from saepipe.evaluate.subject import Subject
from saepipe.evaluate.testbed import Passes, Testbed
from saepipe.harvest.model import LanguageModel
from saepipe.train.load import open_run


def evaluate(
    runs: Sequence[Path],
    config: EvaluateConfig,
    *,
    out: Path | None = None,
    progress: Progress | None = None,
    passes: Passes | None = None,
) -> list[Path]:
    """Measures each run, or finds that it has been measured.

    Runs of one hook of one cache share every model pass that does not depend on the SAE.

    Args:
        runs: run folders.
        config: metrics and how the model runs.
        out: a folder for the results, `<variant>-seed-<n>-<fingerprint>/<metric>.json`; `RUN/eval/` where not given.
        progress: told of every result that is reused.
        passes: counts what goes through the model.

    Returns:
        The JSON files, run by run.

    Raises:
        ConfigError: if a run was not trained from the cache that is found, or at a hook that it does not have.
        CorruptDataError: if a run or its cache is unfinished or damaged.
    """
    progress = progress or Silent()
    jobs = plan_jobs(runs, config, out)
    for job in jobs:
        if job.done:
            progress.say(f"{job.path}: the same run, cache and settings; kept as it is")
    groups = by_hook(job for job in jobs if not job.done)
    eval_id = str(uuid.uuid4())
    beds = testbeds(groups.values(), config, passes or Passes())
    for testbed, group in zip(beds, groups.values(), strict=True):
        _measure(group, testbed, eval_id, progress)
    return [job.path for job in jobs]


def plan(runs: Sequence[Path], config: EvaluateConfig, *, out: Path | None = None) -> dict[str, Any]:
    """What `evaluate` would measure and what it would reuse; loads neither model nor SAE."""
    jobs = plan_jobs(runs, config, out)
    contexts = {job.cache.fingerprint: len(job.cache.heldout.contexts) for job in jobs}
    groups = by_hook(job for job in jobs if not job.done)
    works: dict[bool, list[str]] = {True: [], False: []}
    for testbed, group in zip(testbeds(groups.values(), config, Passes()), groups.values(), strict=True):
        for metric in {job.metric.name: job.metric for job in group}.values():
            for work in metric.works(testbed):
                works[testbed.artifacts.has(work.kind, work.key)].append(str(testbed.artifacts.folder(work)))
    return {
        "measure": [str(job.path) for job in jobs if not job.done],
        "reuse": [str(job.path) for job in jobs if job.done],
        "model_work_to_do": list(dict.fromkeys(works[False])),
        "model_work_to_reuse": list(dict.fromkeys(works[True])),
        "heldout_contexts": contexts,
    }


def testbeds(groups: Iterable[Sequence[Job]], config: EvaluateConfig, passes: Passes) -> Iterator[Testbed]:
    """Where each group is judged. Groups of one cache that come one after the other share the loaded model."""
    device = pick_device(config.device)
    models: dict[str, LanguageModel] = {}

    def load(cache: Cache) -> LanguageModel:
        if cache.fingerprint not in models:
            models.clear()
            models[cache.fingerprint] = load_model_of(cache, config)
        return models[cache.fingerprint]

    for group in groups:
        cache, hook = group[0].cache, group[0].run.hook
        made_with = model_config(cache, config)
        of = {**cache.attributes["model"], "hook": hook, "dtype": made_with.dtype, "attention": made_with.attention}
        yield Testbed(
            cache=cache,
            hook=hook,
            load=partial(load, cache),
            artifacts=Artifacts(config.artifacts or Path(f"{cache.path}.artifacts"), of),
            batch_size=config.batch_size,
            device=device,
            mode=config.mode,
            live=config.activations == "live",
            baseline=_baseline(config, hook, device),
            passes=passes,
        )


def _baseline(config: EvaluateConfig, hook: str, device: torch.device) -> Subject | None:
    """The run that others are compared with, at the hooks where it was trained."""
    if config.baseline is None:
        return None
    run = open_run(config.baseline)
    return Subject.load(run, device) if run.hook == hook else None


def _measure(jobs: Sequence[Job], testbed: Testbed, eval_id: str, progress: Progress) -> None:
    """All metrics of all runs at one hook of one cache."""
    subjects = {job.run.path: Subject.load(job.run, testbed.device) for job in jobs}
    for name in dict.fromkeys(job.metric.name for job in jobs):
        group = [job for job in jobs if job.metric.name == name]
        metric = group[0].metric
        measured = metric.measure([subjects[job.run.path] for job in group], testbed, progress)
        for job, measurement in zip(group, measured, strict=True):
            result = envelope(measurement, job.request, metric, subjects[job.run.path], testbed, eval_id)
            artifact.write_json(job.path, result)
