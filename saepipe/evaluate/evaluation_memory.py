"""Memory of an evaluation, for its dry run: the model as tried, the SAEs, and the largest metric or store."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from saepipe.data.batches.rank_memory import PROGRAM, Measured, RankMemory
from saepipe.evaluate.features.contexts import num_rows
from saepipe.evaluate.features.store_bytes import builder_bytes, writing_bytes
from saepipe.evaluate.features.store_job import StoreJob
from saepipe.evaluate.plan import MetricJob, by_testbed
from saepipe.train.rundir.finished_run import Run
from saepipe.train.rundir.run_files import METRICS

_ASSUMED_L0 = 100.0
"""Active latents per token of an SAE that does not say them."""


@dataclass(frozen=True)
class Phase:
    """What one metric, or the stores, hold at their peak, in bytes."""

    saes: int
    """weights of the SAEs that are loaded together"""
    work: int
    results: int = 0
    """on the host, of SAEs that were measured before"""


def evaluation_memory(
    device: torch.device, metrics: Sequence[MetricJob], stores: Sequence[StoreJob], model: Measured
) -> tuple[RankMemory, list[str]]:
    """Returns the memory of an evaluation, and the metrics of which none is known.

    Args:
        device: of the model and the SAEs.
        metrics: jobs to do.
        stores: to build.
        model: peak of passes of the model, with the program; zeros if it is not loaded.
    """
    known, unknown = [Phase(0, 0)], list[str]()
    for group in by_testbed(metrics):
        for name in dict.fromkeys(job.metric.name for job in group):
            phase = _of_metric([job for job in group if job.metric.name == name], _loaded_bytes(group))
            if phase is None:
                unknown.append(name)
            else:
                known.append(phase)
    known += [_of_stores(group) for group in by_testbed(stores)]
    host = max(model.host, PROGRAM) + max(phase.results for phase in known)
    on_device = model.device + max(phase.saes + phase.work for phase in known)
    return RankMemory.of(device, host=host, on_device=on_device), list(dict.fromkeys(unknown))


def _of_metric(jobs: Sequence[MetricJob], saes: int) -> Phase | None:
    metric = jobs[0].metric
    held = [metric.held_bytes(*_shape(job.run), job.testbed) for job in jobs]
    sizes = [each for each in held if each is not None]
    if len(sizes) < len(held):
        return None
    earlier = sum(metric.detail_bytes * _shape(job.run)[1] for job in jobs[1:])
    return Phase(saes, max(sizes), earlier)


def _of_stores(stores: Sequence[StoreJob]) -> Phase:
    settings, cache = stores[0].settings, stores[0].testbed.cache
    window = min(settings.window, cache.attributes["context_size"])
    num_tokens = num_rows(cache, settings)
    sizes = [(settings, _shape(store.run)[1], window, num_tokens, l0_of(store.run)) for store in stores]
    builders, writing = sum(builder_bytes(*each) for each in sizes), max(writing_bytes(*each) for each in sizes)
    return Phase(sum(_weight_bytes(store.run) for store in stores), builders + writing)


def _loaded_bytes(group: Sequence[MetricJob]) -> int:
    """Returns the bytes of the SAEs of all runs at one hook, which are loaded together."""
    runs = {run.path: run for job in group for run in (job.run, *job.siblings)}
    return sum(map(_weight_bytes, runs.values()))


def _shape(run: Run) -> tuple[int, int]:
    return int(run.sae_cfg["d_in"]), int(run.sae_cfg["d_sae"])


def _weight_bytes(run: Run) -> int:
    return sum(path.stat().st_size for path in (run.path / "sae").glob("*.safetensors"))


def l0_of(run: Run) -> float:
    """Returns the active latents per token that a run's log ends with; of an imported run its k, or a guess."""
    log = run.path / METRICS
    lines = log.read_text().splitlines() if log.exists() else []
    k = run.settings["sae"].get("k")
    of_config = k if isinstance(k, int | float) else _ASSUMED_L0
    return float((json.loads(lines[-1]).get("l0") if lines else None) or of_config)
