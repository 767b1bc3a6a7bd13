"""Evaluation: opens runs and their cache, runs the model once for all of them, and writes one JSON file per result."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from saepipe.data.folders import artifact
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.features.gather_stores import build_stores
from saepipe.evaluate.model.testbed import Passes, Testbed
from saepipe.evaluate.model.testbeds import Testbeds
from saepipe.evaluate.plan import MetricJob, by_testbed, plan_jobs, store_jobs
from saepipe.evaluate.results.result_file import envelope
from saepipe.evaluate.sae.subject import Subject


def evaluate(
    runs: Sequence[Path | str],
    config: EvaluateConfig | Mapping[str, Any] | Path | str = EvaluateConfig(),  # noqa: B008 - a frozen value
    *,
    out: Path | str | None = None,
    progress: Progress | None = None,
    passes: Passes | None = None,
) -> list[Path]:
    """Measures each run and builds its feature store; reuses results and stores that are up to date.

    Runs of one hook of one cache share every model pass that does not depend on the SAE, and one pass over the cache
    for their feature stores.

    Args:
        runs: run folders.
        config: metrics and how the model runs; also as plain data, or the path of a YAML file.
        out: a folder for the results, `<variant>-seed-<n>-<fingerprint>/<metric>.json`; default: `RUN/eval/`.
            Feature stores go beside them, or to `RUN/features/`.
        progress: receives a message for every result that is reused.
        passes: counts the sequences that go through the model.

    Returns:
        The JSON files, run by run.

    Raises:
        ConfigError: see `plan_jobs`.
        CorruptDataError: see `plan_jobs`; also if an SAE gives NaN or Inf, or stored work is damaged.
    """
    config, progress = EvaluateConfig.of(config), progress or Silent()
    folders, results = [Path(run) for run in runs], Path(out) if out else None
    jobs = plan_jobs(folders, config, results, Testbeds(config, passes or Passes(), progress))
    stores = store_jobs(jobs, config, results)
    done = {store.folder: store.done for store in stores}
    for path in [job.path for job in jobs if job.done] + [folder for folder in done if done[folder]]:
        progress.say(f"{path} is up to date: same run, cache and settings")
    eval_id = str(uuid.uuid4())
    for metric_jobs in by_testbed(job for job in jobs if not job.done):
        _measure(metric_jobs, metric_jobs[0].testbed, eval_id, progress)
    for group in by_testbed(store for store in stores if not done[store.folder]):
        build_stores(group, progress)
    return [job.path for job in jobs]


def _measure(jobs: Sequence[MetricJob], testbed: Testbed, eval_id: str, progress: Progress) -> None:
    """Measures all metrics of all runs at one hook of one cache."""
    subjects = {job.run.path: Subject.load(job.run, testbed.device) for job in jobs}
    for name in dict.fromkeys(job.metric.name for job in jobs):
        group = [job for job in jobs if job.metric.name == name]
        metric = group[0].metric
        measurements = metric.measure([subjects[job.run.path] for job in group], testbed, progress)
        for job, measurement in zip(group, measurements, strict=True):
            result = envelope(measurement, job.request, metric, subjects[job.run.path], testbed, eval_id)
            artifact.write_json(job.path, result)
