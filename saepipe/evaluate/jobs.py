"""What there is to do: one job a run and metric, each known by what it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.cache import Cache
from saepipe.data.config import fingerprint
from saepipe.data.errors import ConfigError
from saepipe.evaluate.artifacts import Work
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.envelope import Request, existing
from saepipe.evaluate.metrics.base import Metric
from saepipe.evaluate.testbed import Testbed
from saepipe.evaluate.testbeds import Testbeds
from saepipe.train.load import Run, open_run


@dataclass(frozen=True)
class Job:
    """One metric of one run."""

    run: Run
    testbed: Testbed
    metric: Metric
    works: Sequence[Work]
    """of the model"""
    request: Request
    path: Path
    """of the result"""

    @property
    def done(self) -> bool:
        return existing(self.path, self.request)


def plan_jobs(runs: Sequence[Path], config: EvaluateConfig, out: Path | None, testbeds: Testbeds) -> list[Job]:
    """One job a run and metric, every run checked against its cache.

    Raises:
        ConfigError: if a run was not trained from the cache that is found, or at a hook that it does not have; or if
            none was trained where the baseline was.
        CorruptDataError: if a run or its cache is unfinished or damaged.
    """
    if not runs:
        raise ConfigError("no run to evaluate", hint="saepipe evaluate RUN...")
    caches: dict[Path, Cache] = {}
    works: dict[tuple[int, str], list[Work]] = {}
    jobs = []
    for folder in {Path(run).resolve(): Path(run) for run in runs}.values():
        run = open_run(folder)
        testbed = testbeds.at(_cache_of(run, config, caches), run.hook)
        results = out / f"{run.variant}-seed-{run.seed}-{run.fingerprint[:8]}" if out else run.path / "eval"
        for metric in config.metrics:
            here = (id(testbed), metric.name)
            if here not in works:  # texts may have to be looked up on a hub
                works[here] = metric.works(testbed)
            request = _request(run, metric, works[here], testbed, config)
            jobs.append(Job(run, testbed, metric, works[here], request, results / f"{metric.name}.json"))
    if config.baseline and not any(job.testbed.baseline for job in jobs):
        raise ConfigError(
            f"baseline {config.baseline} was trained at another hook or from another cache than all of the runs"
        )
    return jobs


def by_testbed(jobs: Iterable[Job]) -> list[list[Job]]:
    """Jobs that share their model passes."""
    groups: dict[int, list[Job]] = {}
    for job in jobs:
        groups.setdefault(id(job.testbed), []).append(job)
    return list(groups.values())


def _request(run: Run, metric: Metric, works: Sequence[Work], testbed: Testbed, config: EvaluateConfig) -> Request:
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
    )


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
