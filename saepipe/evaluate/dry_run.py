"""What `saepipe evaluate --dry-run` tells: what would be measured, reused and skipped, and how long it would take."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from saepipe.data.batches.rank_memory import Measured, RankMemory, measured_memory
from saepipe.data.device import pick_device
from saepipe.data.terminal.display import readable_time
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.evaluation_memory import evaluation_memory
from saepipe.evaluate.metrics.core.metric import Core, by_hook
from saepipe.evaluate.model.next_token import predict
from saepipe.evaluate.model.testbed import Passes, Testbed
from saepipe.evaluate.model.testbeds import Testbeds
from saepipe.evaluate.plan import MetricJob, by_testbed, describe, plan_jobs, store_jobs

CALIBRATION_SECONDS = 2.0
"""Time in which the model is tried, per hook of a cache."""


def dry_run(
    runs: Path | str | Sequence[Path | str],
    config: EvaluateConfig,
    *,
    out: Path | None = None,
    seconds: float = CALIBRATION_SECONDS,
) -> dict[str, Any]:
    """Returns the plan with the time of the model's passes for `core`; loads the model only if it has to make some.

    `seconds` is None if core is not measured; `not_timed` names what comes on top, and `not_counted` the metrics whose
    memory is not known.

    Raises:
        ConfigError, CorruptDataError, RemoteError: as `plan_jobs`.
    """
    skipped: list[str] = []
    jobs = plan_jobs(runs, config, out, Testbeds(config, Passes()), skipped.append)
    stores = store_jobs(jobs, config, out)
    todo = [job for job in jobs if not job.done]
    core = [job for job in todo if isinstance(job.metric, Core)]
    timed, model, device = None, Measured(), pick_device(config.device)
    if running := [job for job in todo if job in core or _runs_model(job)]:
        with measured_memory(device) as model:
            running[0].testbed.load()
            timed = sum(_core_seconds(group, seconds) for group in by_testbed(core)) if core else None
    memory, not_counted = evaluation_memory(device, todo, [store for store in stores if not store.done], model)
    others = list(dict.fromkeys(job.metric.name for job in todo if job not in core))
    others += ["features"] if any(not store.done for store in stores) else []
    planned: dict[str, Any] = {"skipped": skipped, "seconds": timed, "not_timed": others}
    planned |= {"memory": asdict(memory), "not_counted": not_counted}
    return describe(jobs, stores) | planned


def _runs_model(job: MetricJob) -> bool:
    """Returns whether work of the model is missing for a metric."""
    return not all(job.testbed.kept_work.has(work.kind, work.key) for work in job.works)


def _core_seconds(jobs: Sequence[MetricJob], seconds: float) -> float:
    """Returns the time of core's passes: of each batch one with the model's activations, and one per SAE.

    Those of a crosscoder are made at each of its hooks; a skip transcoder has two more, without a part.
    """
    testbed, metric = jobs[0].testbed, jobs[0].metric
    assert isinstance(metric, Core)
    passes = 1 + sum(3 if job.run.plain.get("skip") else 1 for job in jobs)
    of_context = sum(seconds_per_context(each, seconds) for each in by_hook(testbed))
    return testbed.num_contexts(metric.num_contexts) * passes * of_context


@torch.no_grad()
def seconds_per_context(testbed: Testbed, seconds: float) -> float:
    """Returns the mean time that a context takes from the hook upward, over at least one batch."""
    batch = next(testbed.batches(testbed.num_contexts(testbed.batch_size)))
    with testbed.upper_layers() as upper_layers:
        clean = upper_layers(batch.ids, batch.target)  # includes one-time setup, so it is not timed
        start, num_batches = time.perf_counter(), 0
        while not num_batches or time.perf_counter() - start < seconds:
            float(predict(upper_layers(batch.ids, batch.target), batch.ids, clean).kl.sum())  # waits for the device
            num_batches += 1
    return (time.perf_counter() - start) / (num_batches * len(batch.ids))


def page(planned: Mapping[str, Any]) -> dict[str, str]:
    """Returns a sentence for each part of the plan, for people."""
    metrics = ", ".join(dict.fromkeys(Path(path).stem for path in planned["measure"])) or "nothing"
    lines = {
        "measure": f"{len(planned['measure'])} results: {metrics}",
        "reuse": f"{len(planned['reuse'])} results that are up to date",
        "features": f"{len(planned['features_to_gather'])} stores to gather, "
        f"{len(planned['features_to_reuse'])} up to date",
        "model work": f"{len(planned['model_work_to_do'])} pieces to do, {len(planned['model_work_to_reuse'])} kept",
        "time": _time(planned),
        "memory": _memory(planned),
    }
    if planned["skipped"]:
        lines["skipped"] = "\n".join(planned["skipped"])
    return lines | {"paths": "--format json"}


def _time(planned: Mapping[str, Any]) -> str:
    if not (planned["measure"] or planned["features_to_gather"]):
        return "none: all is up to date"
    core = f"core about {readable_time(planned['seconds'])}" if planned["seconds"] is not None else ""
    others = f"not timed: {', '.join(planned['not_timed'])}" if planned["not_timed"] else ""
    return "; ".join(filter(None, (core, others)))


def _memory(planned: Mapping[str, Any]) -> str:
    if not (planned["measure"] or planned["features_to_gather"]):
        return "none"
    more = f"; not counted: {', '.join(planned['not_counted'])}" if planned["not_counted"] else ""
    return f"{RankMemory(**planned['memory']).sentence()}{more}"
