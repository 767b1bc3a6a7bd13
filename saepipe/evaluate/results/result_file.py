"""Result files: JSON with SAEBench's envelope and keys, plus a `saepipe` block with the provenance."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saepipe.data.config.base import fingerprint
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.sealed_result import again, is_sealed, read_result
from saepipe.data.folders.standing import Standing
from saepipe.evaluate.metrics.base import Figure, Measurement, Metric
from saepipe.evaluate.stats.intervals import Estimate

if TYPE_CHECKING:  # so that results are read without a model library
    from saepipe.evaluate.model.testbed import Testbed
    from saepipe.evaluate.sae.subject import Subject


@dataclass(frozen=True)
class Request:
    """Inputs of a result. Equal requests have equal results, wherever their folders are."""

    run: str
    """fingerprint"""
    cache: str
    """fingerprint"""
    hook: str
    metric: dict[str, Any]
    """the metric's settings"""
    metric_version: int
    batch_size: int
    dtype: str
    """of the model"""
    mode: str
    activations: str
    baseline: str | None
    """fingerprint of the run that the metric compares with, if it does"""
    works: str
    """fingerprint of the model's work behind it: texts and questions by their content"""
    siblings: tuple[str, ...] = ()
    """fingerprints of the runs of other seeds that the metric compares with, if it does"""

    @property
    def fingerprint(self) -> str:
        inputs = asdict(self)
        if not self.siblings:
            del inputs["siblings"]  # as in results of earlier versions
        return fingerprint(inputs)


def envelope(
    measurement: Measurement, request: Request, metric: Metric, subject: Subject, testbed: Testbed, eval_id: str
) -> dict[str, Any]:
    """Returns the JSON object, keys in SAEBench's order. An undefined figure is null; `saepipe.undefined` says why."""
    figures = dict(_figures(measurement))
    return {
        "eval_type_id": metric.eval_type_id,
        "eval_config": measurement.eval_config,
        "eval_id": eval_id,
        "datetime_epoch_millis": int(time.time() * 1000),
        "eval_result_metrics": {
            category: {key: plain_value(figure) for key, figure in group.items()}
            for category, group in measurement.metrics.items()
        },
        "eval_result_details": measurement.details,
        "sae_bench_commit_hash": artifact.provenance()["commit"],
        "sae_lens_id": "custom_sae",
        "sae_lens_release_id": subject.name,
        "sae_lens_version": "Unknown",
        "sae_cfg_dict": subject.cfg,
        "eval_result_unstructured": measurement.unstructured,
        "saepipe": {
            "metric_version": metric.version,
            "mode": request.mode,
            "activations": request.activations,
            "request": request.fingerprint,
            "config": {**request.metric, "batch_size": request.batch_size, "dtype": request.dtype},
            "fingerprints": {
                "run": request.run,
                "cache": request.cache,
                "model": testbed.cache.attributes["model"],
                "baseline": request.baseline,
                **({"siblings": list(request.siblings)} if request.siblings else {}),
            },
            "model_work": request.works,
            "hook": request.hook,
            "variant": subject.run.variant,
            "seeds": {"seed": subject.run.seed, "data_seed": subject.run.data_seed},
            "metrics": {key: plain_value(figure) for key, figure in measurement.extra.items()},
            "intervals": dict(_intervals(figures)),
            "undefined": {key: f.reason for key, f in figures.items() if isinstance(f, Estimate) and f.reason},
            "warnings": measurement.warnings,
            "findings": [asdict(finding) for finding in measurement.findings],
            **measurement.more,
            "counts": measurement.counts,
            "parts": measurement.parts,
            "provenance": dict(artifact.provenance()),
        },
    }


def standing(path: Path, request: Request) -> Standing:
    """Returns whether `path` holds the intact result of this request."""
    if not path.is_file():
        return Standing(done=False)
    try:
        result = read(path)
    except CorruptDataError as error:
        return Standing(done=False, damage=error.message)
    return Standing(result["saepipe"]["request"] == request.fingerprint, unchecked=not is_sealed(result))


def read(path: Path) -> dict[str, Any]:
    """Reads a result; raises CorruptDataError if it is not one of saepipe, or was changed after it was written."""
    result = read_result(path)
    try:
        result["saepipe"]["fingerprints"]["run"], result["saepipe"]["request"]
    except (KeyError, TypeError) as error:
        raise CorruptDataError(f"{path} is not a result of saepipe", hint=again(path)) from error
    return result


def plain_value(figure: Figure) -> float | int | None:
    return figure.value if isinstance(figure, Estimate) else figure


def _figures(measurement: Measurement) -> Iterator[tuple[str, Figure]]:
    for group in measurement.metrics.values():
        yield from group.items()
    yield from measurement.extra.items()


def _intervals(figures: Mapping[str, Figure]) -> Iterator[tuple[str, list[float]]]:
    """Yields the 95 % intervals of evaluation noise; see `saepipe.evaluate.stats.intervals`."""
    for key, figure in figures.items():
        if isinstance(figure, Estimate) and figure.low is not None and figure.high is not None:
            yield key, [figure.low, figure.high]
