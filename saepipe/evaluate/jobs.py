"""What there is to do: one job a run and metric, each known by what it answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.envelope import Request, existing
from saepipe.evaluate.metrics.base import Metric
from saepipe.evaluate.model import model_config
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
