"""Evaluation from top to bottom: runs, their cache, the model, one pass for all of them, a JSON file each."""

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
from saepipe.evaluate.plan import Job, by_testbed, plan_jobs, store_jobs
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
    """Measures each run and gathers what its latents do, or finds that it has been done.

    Runs of one hook of one cache share every model pass that does not depend on the SAE, and one pass over the cache
    for their feature stores.

    Args:
        runs: run folders.
        config: metrics and how the model runs; also its plain data, or the path of its YAML file.
        out: a folder for the results, `<variant>-seed-<n>-<fingerprint>/<metric>.json`; `RUN/eval/` where not given.
            Feature stores go beside them, or to `RUN/features/`.
        progress: told of every result that is reused.
        passes: counts what goes through the model.

    Returns:
        The JSON files, run by run.

    Raises:
        ConfigError: as `plan_jobs`.
        CorruptDataError: as `plan_jobs`, and if an SAE gives NaN or Inf, or stored work is damaged.
    """
    config, progress = EvaluateConfig.of(config), progress or Silent()
    folders, results = [Path(run) for run in runs], Path(out) if out else None
    jobs = plan_jobs(folders, config, results, Testbeds(config, passes or Passes()))
    stores = store_jobs(jobs, config, results)
    found = {store.folder: store.done for store in stores}
    for kept in [job.path for job in jobs if job.done] + [folder for folder, done in found.items() if done]:
        progress.say(f"{kept}: the same run, cache and settings; kept as it is")
    eval_id = str(uuid.uuid4())
    for group in by_testbed(job for job in jobs if not job.done):
        _measure(group, group[0].testbed, eval_id, progress)
    for together in by_testbed(store for store in stores if not found[store.folder]):
        build_stores(together, progress)
    return [job.path for job in jobs]


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
