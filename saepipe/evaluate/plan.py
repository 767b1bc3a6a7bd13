"""Plan of an evaluation: one job per run and metric, each identified by the request that it answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from saepipe.data.cache.cache import Cache
from saepipe.data.config.base import fingerprint
from saepipe.data.errors import ConfigError, RemoteError
from saepipe.data.folders.standing import Standing
from saepipe.data.ranks.share import Share
from saepipe.data.remote.run_folders import run_folders
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.features.store import FOLDER
from saepipe.evaluate.features.store_job import StoreJob
from saepipe.evaluate.metrics.base import Metric
from saepipe.evaluate.model.kept_work import Work
from saepipe.evaluate.model.run_cache import cache_of
from saepipe.evaluate.model.testbed import Passes, Testbed
from saepipe.evaluate.model.testbeds import Testbeds
from saepipe.evaluate.results.result_file import Request, standing
from saepipe.evaluate.sae.siblings import siblings_of_each
from saepipe.train.rundir.finished_run import Run, open_run

AnyJob = TypeVar("AnyJob", "MetricJob", StoreJob)


@dataclass(frozen=True)
class MetricJob:
    """One metric of one run."""

    run: Run
    testbed: Testbed
    metric: Metric
    works: Sequence[Work]
    """work of the model that the metric needs"""
    request: Request
    path: Path
    """path of the result"""
    siblings: Sequence[Run] = ()
    """runs of other seeds that the metric compares with, if it does"""

    @property
    def done(self) -> bool:
        return self.standing().done

    def standing(self) -> Standing:
        """Returns whether the intact result is there."""
        return standing(self.path, self.request)


def plan(runs: Path | str | Sequence[Path | str], config: EvaluateConfig, *, out: Path | None = None) -> dict[str, Any]:
    """Lists what `evaluate` would measure, reuse and skip; loads neither model nor SAE."""
    skipped: list[str] = []
    jobs = plan_jobs(runs, config, out, Testbeds(config, Passes()), skipped.append)
    return describe(jobs, store_jobs(jobs, config, out)) | {"skipped": skipped}


def describe(jobs: Sequence[MetricJob], stores: Sequence[StoreJob]) -> dict[str, Any]:
    """Lists what is to be done and what is there already, by path."""
    contexts = {str(job.testbed.cache.path): len(job.testbed.cache.heldout.contexts) for job in jobs}
    works: dict[bool, list[str]] = {True: [], False: []}
    for job in jobs:
        if not job.done:
            kept_work = job.testbed.kept_work
            for work in job.works:
                works[kept_work.has(work.kind, work.key)].append(str(kept_work.folder(work)))
    return {
        "measure": [str(job.path) for job in jobs if not job.done],
        "reuse": [str(job.path) for job in jobs if job.done],
        "features_to_gather": [str(store.folder) for store in stores if not store.done],
        "features_to_reuse": [str(store.folder) for store in stores if store.done],
        "model_work_to_do": list(dict.fromkeys(works[False])),
        "model_work_to_reuse": list(dict.fromkeys(works[True])),
        "heldout_contexts": contexts,
    }


def plan_jobs(
    runs: Path | str | Sequence[Path | str],
    config: EvaluateConfig,
    out: Path | None,
    testbeds: Testbeds,
    say: Callable[[str], None],
) -> list[MetricJob]:
    """Returns one job per run and metric, after checking every run against its cache.

    A folder of runs, such as that of a variant or study, stands for all runs below it.

    A default metric whose texts cannot be had from the hub is skipped, and `say` told so; a metric that the config
    names is required.

    Raises:
        RemoteError: if the texts of a metric that the config names cannot be had.
        ConfigError: if a run was trained from another cache, or at a hook that its cache does not have; if a metric
            that the config names cannot measure a run; or if no run was trained at the hook and from the cache of the
            baseline.
        CorruptDataError: if a run or its cache is unfinished or damaged.
    """
    if not runs:
        raise ConfigError("no run to evaluate", hint="saepipe evaluate RUN...")
    caches: dict[tuple[Path, str], Cache] = {}
    works: dict[tuple[int, str], list[Work] | None] = {}
    jobs = []
    opened = [open_run(folder) for folder in run_folders(runs)]
    siblings = siblings_of_each(opened)
    for run in opened:
        testbed = testbeds.at(cache_of(run, config.cache, caches), run.hook, run.target)
        results = out / f"{run.variant}-seed-{run.seed}-{run.fingerprint[:8]}" if out else run.path / "eval"
        if config.mode == "reference" and (run.target or testbed.is_of_crosscoders):
            kind = "transcoder" if run.target else "crosscoder"
            hint = "use mode: fixed"
            raise ConfigError(f"{run.path} is a {kind}, of which SAEBench has no metrics to reproduce", hint=hint)
        if config.activations == "live" and testbed.reads_two_models:
            hint = "use activations: stored"
            raise ConfigError(f"{run.path} reads the caches of two models; live activations are of one", hint=hint)
        for metric in config.metrics:
            key = (id(testbed), metric.name)
            if key not in works:  # only once, as it may look up texts on a hub
                works[key] = _works(metric, testbed, config, say)
            if (of_metric := works[key]) is not None:
                compared = siblings[run.fingerprint] if metric.uses_siblings else ()
                request = _request(run, metric, of_metric, testbed, config, compared)
                path = results / f"{metric.name}.json"
                jobs.append(MetricJob(run, testbed, metric, of_metric, request, path, compared))
    if config.baseline and not any(job.testbed.baseline for job in jobs):
        raise ConfigError(f"no run was trained at the hook and from the cache of baseline {config.baseline}")
    return jobs


def _works(metric: Metric, testbed: Testbed, config: EvaluateConfig, say: Callable[[str], None]) -> list[Work] | None:
    """Returns the model's work for a metric; None if it is skipped."""
    if reason := metric.refuses(testbed):
        if "metrics" in config.model_fields_set:
            raise ConfigError(f"{metric.name}: {reason}", hint="leave it out of `metrics` for these runs")
        say(f"{metric.name} is skipped: {reason}")
        return None
    try:
        return metric.works(testbed)
    except RemoteError as error:
        if "metrics" in config.model_fields_set:
            raise
        mine = "datasets: [{name: mine, source: mine.csv, text: text, label: label}]"
        names = [f"{{name: {m.name}{f', {mine}' if m is metric else ''}}}" for m in config.metrics]
        say(
            f"{metric.name} is skipped: {error.message}\n"
            f"  hint: with a file of labelled texts it needs no network: --set 'metrics=[{', '.join(names)}]'"
        )
        return None


def store_jobs(jobs: Iterable[MetricJob], config: EvaluateConfig, out: Path | None) -> list[StoreJob]:
    """Returns one feature store per run, in the run, or beside its results if these are elsewhere."""
    if config.features is None:
        return []
    stores = {}
    for job in jobs:
        folder = (job.path.parent if out else job.run.path) / FOLDER
        stores[job.run.path] = StoreJob(job.run, job.testbed, config.features, folder, job.path.parent)
    return list(stores.values())


def in_share(
    share: Share, jobs: Sequence[MetricJob], stores: Sequence[StoreJob]
) -> tuple[list[MetricJob], list[StoreJob]]:
    """Returns what one share of an evaluation makes; each metric's runs are dealt out, since metrics differ in cost."""
    metrics = list(dict.fromkeys(job.metric.name for job in jobs))
    by_metric = sorted(jobs, key=lambda job: metrics.index(job.metric.name))
    mine = {id(piece) for piece in share.pieces([*by_metric, *stores])}
    return [job for job in jobs if id(job) in mine], [store for store in stores if id(store) in mine]


def by_testbed(jobs: Iterable[AnyJob]) -> list[list[AnyJob]]:
    """Groups jobs that share model passes."""
    groups: dict[int, list[AnyJob]] = {}
    for job in jobs:
        groups.setdefault(id(job.testbed), []).append(job)
    return list(groups.values())


def _request(
    run: Run,
    metric: Metric,
    works: Sequence[Work],
    testbed: Testbed,
    config: EvaluateConfig,
    compared: Sequence[Run],
) -> Request:
    baseline = testbed.baseline if metric.uses_baseline else None
    return Request(
        run=run.fingerprint,
        cache=run.cache_fingerprint,
        hook=run.hook,
        metric=metric.to_dict(),
        metric_version=metric.version,
        batch_size=config.batch_size,
        dtype=testbed.dtype,
        mode=config.mode,
        activations=config.activations,
        baseline=baseline.run.fingerprint if baseline else None,
        works=fingerprint([[work.kind, dict(work.key)] for work in works]),
        siblings=tuple(other.fingerprint for other in compared),
    )
