"""Evaluation: opens runs and their cache, runs the model once for all of them, and writes one JSON file per result."""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from saepipe.data.folders.descriptors import allow_open_files
from saepipe.data.folders.sealed_result import write_result
from saepipe.data.folders.standing import Standing
from saepipe.data.ranks.share import Share
from saepipe.data.remote.places import folder_of, parts_lock, publish
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.features.gather_stores import build_stores
from saepipe.evaluate.features.store import FOLDER
from saepipe.evaluate.features.store_job import StoreJob
from saepipe.evaluate.model.testbed import Passes, Testbed
from saepipe.evaluate.model.testbeds import Testbeds
from saepipe.evaluate.plan import MetricJob, by_testbed, in_share, plan_jobs, store_jobs
from saepipe.evaluate.results.result_file import envelope
from saepipe.evaluate.sae.subject import Subject
from saepipe.train.step.allocator import keep_freed_memory


def evaluate(
    runs: Path | str | Sequence[Path | str],
    config: EvaluateConfig | Mapping[str, Any] | Path | str = EvaluateConfig(),  # noqa: B008 - a frozen value
    *,
    out: Path | str | None = None,
    share: Share | str = Share(),  # noqa: B008
    progress: Progress | None = None,
    passes: Passes | None = None,
) -> list[Path]:
    """Measures each run and builds its feature store; reuses results and stores that are up to date and undamaged.

    Runs of one hook of one cache share every model pass that does not depend on the SAE, and one pass over the cache
    for their feature stores.

    Args:
        runs: run folders; the folder of a variant or study means all runs below it.
        config: metrics and how the model runs; also as plain data, or the path of a YAML file.
        out: a folder for the results, `<variant>-seed-<n>-<fingerprint>/<metric>.json`; default: `RUN/eval/`.
            Feature stores go beside them, or to `RUN/features/`.
        share: of the results and feature stores that this call makes, such as "2/8", if other calls make the others.
        progress: receives a message for every result that is reused, is made again because it is damaged, or is waited
            for because another process makes it.
        passes: counts the sequences that go through the model.

    Returns:
        The JSON files of the share, run by run.

    Raises:
        ConfigError, RemoteError: see `plan_jobs`.
        CorruptDataError: see `plan_jobs`; also if an SAE gives NaN or Inf.

    Example:
        >>> results = sp.evaluate(["runs/base/seed-0"], {"metrics": [{"name": "core"}]})
        >>> sp.open_run("runs/base/seed-0").metrics["core"]["delta_ce"]
    """
    config, progress = EvaluateConfig.of(config), progress or Silent()
    results = folder_of(out) if out else None
    jobs = plan_jobs(runs, config, results, Testbeds(config, passes or Passes(), progress), progress.say)
    stores = store_jobs(jobs, config, results)
    jobs, stores = in_share(Share.of(share), jobs, stores)
    with _locked(_Todo.of(jobs, stores), progress) as todo:
        todo.say(progress)
        keep_freed_memory()  # each batch of each SAE needs arrays of the same sizes
        eval_id = str(uuid.uuid4())
        for metric_jobs in by_testbed(todo.metrics):
            _measure(metric_jobs, metric_jobs[0].testbed, eval_id, progress)
        for group in by_testbed(todo.stores):
            build_stores(group, progress)
    return [job.path for job in jobs]


@dataclass(frozen=True)
class _Todo:
    """All jobs of a call, with what is on disk for each."""

    metric_jobs: Sequence[tuple[MetricJob, Standing]]
    store_jobs: Sequence[tuple[StoreJob, Standing]]

    @classmethod
    def of(cls, jobs: Iterable[MetricJob], stores: Iterable[StoreJob]) -> _Todo:
        return cls([(job, job.standing()) for job in jobs], [(job, job.standing()) for job in stores])

    @property
    def metrics(self) -> list[MetricJob]:
        return [job for job, standing in self.metric_jobs if not standing.done]

    @property
    def stores(self) -> list[StoreJob]:
        return [job for job, standing in self.store_jobs if not standing.done]

    @property
    def parts(self) -> list[tuple[Path, list[str]]]:
        """Folders of results, and their parts that are to be made, in an order that is the same in every process."""
        made = [job.path.with_suffix("") for job in self.metrics] + [job.results / FOLDER for job in self.stores]
        ordered = sorted(made, key=lambda path: (path.parent.resolve(), path.name))
        return [(folder, [path.name for path in paths]) for folder, paths in groupby(ordered, lambda path: path.parent)]

    def renewed(self) -> _Todo:
        return _Todo.of([job for job, _ in self.metric_jobs], [job for job, _ in self.store_jobs])

    def say(self, progress: Progress) -> None:
        """Says what is reused, and what is made again because it is damaged."""
        reused: dict[str, list[Path]] = defaultdict(list)
        by_path = [(job.path, standing) for job, standing in self.metric_jobs]
        for path, standing in [*by_path, *((job.folder, standing) for job, standing in self.store_jobs)]:
            if standing.done:
                reused[standing.remark].append(path)
            elif standing.damage:
                progress.say(f"{standing.damage}: it is made again")
        for remark, paths in reused.items():
            others = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
            progress.say(f"up to date, with the same run, cache and settings{remark}: {paths[0]}{others}")


@contextmanager
def _locked(todo: _Todo, progress: Progress) -> Iterator[_Todo]:
    """Lets only one process make a result at a time; yields what is left to do once the others have ended.

    All locks are taken before any work begins, in one order, so that two processes never wait for each other.
    """
    allow_open_files()
    waited: list[str] = []

    def waiting(sentence: str) -> None:
        waited.append(sentence)
        progress.say(sentence)

    with ExitStack() as locks:
        for folder, parts in todo.parts:
            locks.enter_context(parts_lock(folder, parts, waiting))
            for part in parts:  # from a process that died
                (folder / f"{part}.json.partial").unlink(missing_ok=True)
        yield todo.renewed() if waited else todo


def _measure(jobs: Sequence[MetricJob], testbed: Testbed, eval_id: str, progress: Progress) -> None:
    """Measures all metrics of all runs at one hook of one cache."""
    runs = {run.path: run for job in jobs for run in (job.run, *job.siblings)}
    subjects = {path: Subject.load(run, testbed.device) for path, run in runs.items()}
    for name in dict.fromkeys(job.metric.name for job in jobs):
        group = [job for job in jobs if job.metric.name == name]
        metric = group[0].metric
        siblings = [run.path for job in group for run in job.siblings]  # also those whose results are up to date
        paths = dict.fromkeys([*(job.run.path for job in group), *siblings])
        measurements = metric.measured([subjects[path] for path in paths], testbed, progress)
        for job, measurement in zip(group, measurements, strict=False):
            result = envelope(measurement, job.request, metric, subjects[job.run.path], testbed, eval_id)
            write_result(job.path, result)
            publish(job.path.parent)
