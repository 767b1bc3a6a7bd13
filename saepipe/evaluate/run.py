"""Evaluation from top to bottom: runs, their cache, the model, one pass for all of them, a JSON file each."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from saepipe.data import artifact
from saepipe.data.cache import Cache
from saepipe.data.device import pick_device
from saepipe.data.errors import ConfigError
from saepipe.data.progress import Progress, Silent
from saepipe.evaluate.artifacts import Artifacts
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.envelope import Request, envelope, existing
from saepipe.evaluate.metrics.base import Metric
from saepipe.evaluate.subject import Subject
from saepipe.evaluate.testbed import Testbed
from saepipe.harvest.model import LanguageModel, ModelConfig, load_model
from saepipe.train.load import Run, open_run


@dataclass(frozen=True)
class Job:
    """One metric of one run."""

    run: Run
    cache: Cache
    metric: Metric
    request: Request
    path: Path
    """of the result"""

    @property
    def done(self) -> bool:
        return existing(self.path, self.request)


def evaluate(
    runs: Sequence[Path], config: EvaluateConfig, *, out: Path | None = None, progress: Progress | None = None
) -> list[Path]:
    """Measures each run, or finds that it has been measured.

    Runs of one hook of one cache share every model pass that does not depend on the SAE.

    Args:
        runs: run folders.
        config: metrics and how the model runs.
        out: a folder for the results, `<variant>-seed-<n>-<fingerprint>/<metric>.json`; `RUN/eval/` where not given.
        progress: told of every result that is reused.

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
    for testbed, group in zip(testbeds(groups.values(), config), groups.values(), strict=True):
        _measure(group, testbed, eval_id, progress)
    return [job.path for job in jobs]


def plan(runs: Sequence[Path], config: EvaluateConfig, *, out: Path | None = None) -> dict[str, Any]:
    """What `evaluate` would measure and what it would reuse; loads neither model nor SAE."""
    jobs = plan_jobs(runs, config, out)
    contexts = {job.cache.fingerprint: len(job.cache.heldout.contexts) for job in jobs}
    groups = by_hook(job for job in jobs if not job.done)
    works: dict[bool, list[str]] = {True: [], False: []}
    for testbed, group in zip(testbeds(groups.values(), config), groups.values(), strict=True):
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


def plan_jobs(runs: Sequence[Path], config: EvaluateConfig, out: Path | None) -> list[Job]:
    """One job a run and metric, every run checked against its cache."""
    if not runs:
        raise ConfigError("no run to evaluate", hint="saepipe evaluate RUN...")
    caches: dict[Path, Cache] = {}
    baseline = open_run(config.baseline).fingerprint if config.baseline else None
    jobs = []
    for folder in {Path(run).resolve(): Path(run) for run in runs}.values():
        run = open_run(folder)
        cache = _cache_of(run, config, caches)
        results = out / f"{run.variant}-seed-{run.seed}-{run.fingerprint[:8]}" if out else run.path / "eval"
        for metric in config.metrics:
            request = Request(
                run=run.fingerprint,
                cache=run.cache_fingerprint,
                hook=run.hook,
                metric=metric.to_dict(),
                metric_version=metric.version,
                batch_size=config.batch_size,
                dtype=model_config(cache, config).dtype,
                mode=config.mode,
                activations=config.activations,
                baseline=baseline if metric.uses_baseline else None,
            )
            jobs.append(Job(run, cache, metric, request, results / f"{metric.name}.json"))
    return jobs


def by_hook(jobs: Iterable[Job]) -> dict[tuple[str, str], list[Job]]:
    """Jobs that share their model passes."""
    groups: dict[tuple[str, str], list[Job]] = defaultdict(list)
    for job in jobs:
        groups[job.request.cache, job.request.hook].append(job)
    return groups


def testbeds(groups: Iterable[Sequence[Job]], config: EvaluateConfig) -> Iterator[Testbed]:
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
        )


def _baseline(config: EvaluateConfig, hook: str, device: torch.device) -> Subject | None:
    """The run that others are compared with, at the hooks where it was trained."""
    if config.baseline is None:
        return None
    run = open_run(config.baseline)
    return Subject.load(run, device) if run.hook == hook else None


def model_config(cache: Cache, config: EvaluateConfig) -> ModelConfig:
    """The model that made the cache, on this evaluation's device and in its dtype."""
    made_with = dict(cache.attributes["config"]["model"])
    return ModelConfig.parse(made_with | {"device": config.device} | ({"dtype": config.dtype} if config.dtype else {}))


def load_model_of(cache: Cache, config: EvaluateConfig) -> LanguageModel:
    """Loads the model that made the cache; raises ConfigError if what is found under its name is another one."""
    language_model = load_model(model_config(cache, config))
    made_with, found = cache.attributes["model"], language_model.identity
    same_dtype = language_model.config.dtype == cache.attributes["config"]["model"]["dtype"]
    for key in ("class", "tokenizer", *(("weights",) if same_dtype else ())):
        if made_with[key] != found[key]:
            raise ConfigError(
                f"{found['id']} is not the model that made {cache.path}: {key} {found[key]}, not {made_with[key]}",
                hint="evaluate with the same checkpoint and revision",
            )
    return language_model


def _cache_of(run: Run, config: EvaluateConfig, caches: dict[Path, Cache]) -> Cache:
    path = config.cache or run.config.cache
    if not path.is_dir():
        raise ConfigError(f"the cache of {run.path} is not at {path}", hint="--set cache=PATH")
    cache = caches[path] = caches.get(path) or Cache.open(path)
    if cache.fingerprint != run.cache_fingerprint:
        raise ConfigError(
            f"{run.path} was trained from cache {run.cache_fingerprint[:16]}, but {path} is {cache.fingerprint[:16]}",
            hint="--set cache=PATH of the cache that it was trained from",
        )
    if run.hook not in cache.hooks:
        raise ConfigError(f"{run.path} was trained at {run.hook}; {path} has {', '.join(cache.hooks)}")
    return cache


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
