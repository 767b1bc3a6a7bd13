"""Finished runs without training, and evaluation results whose figures a test chooses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from saepipe.data.folders import artifact
from saepipe.data.folders.health import Finding, Health
from saepipe.data.folders.sealed_result import write_result as write_sealed
from saepipe.evaluate.metrics.base import Figure, Measurement
from saepipe.evaluate.metrics.core.metric import Core
from saepipe.evaluate.results.result_file import Request, envelope
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.train.config import TrainConfig
from saepipe.train.rundir.finished_run import open_run

HOOK = "blocks.1.hook_resid_post"


def write_run(
    folder: Path, *, health: Health | None = None, commit: str = "one", d_sae: int = 8, **changes: Any
) -> Path:
    """Writes a finished, untrained run to `<variant>/seed-<n>`; `changes` are keys of its config."""
    variant, seed = folder.parent.name, int(folder.name.removeprefix("seed-"))
    raw = {
        "cache": "nowhere",
        "hook": HOOK,
        "sae": {"name": "relu", "d_sae": d_sae},
        "penalties": [{"name": "l1", "weight": 1.0}],
        "steps": 1,
        "seed": seed,
    }
    config = TrainConfig.parse(raw | changes)
    artifact.write_file(folder / "config.yaml", config.to_yaml().encode())
    artifact.write_json(folder / "sae" / "cfg.json", {"architecture": "standard", "d_in": 4, "d_sae": d_sae})
    (health or Health()).write(folder)
    header = {"kind": "run", "cache": "c", "hook": config.hook, "variant": variant, "seed": seed}
    header |= {"run_id": config.run_id("c"), "provenance": {"commit": commit}, "stated": list(config.stated())}
    files = artifact.digest_files(folder, ["config.yaml", "health.json", "sae/cfg.json"])
    artifact.rewrite_manifest(folder, [header, {"files": files}])
    artifact.commit(folder)
    return folder


def write_result(
    folder: Path,
    figures: Mapping[str, Figure | None],
    *,
    tokens: int = 100,
    warnings: tuple[str, ...] = (),
    findings: tuple[Finding, ...] = (),
    parts: Mapping[str, dict[str, float]] = {},
    settings: Mapping[str, Any] | None = None,
    name: str = "core",
    **changes: Any,
) -> Path:
    """Writes a result like core's with these figures, as that of the evaluation `name`.

    `settings` are core's own, `changes` are keys of the request.
    """
    run, metric = open_run(folder), Core.model_validate(settings or {})
    cfg = json.loads((folder / "sae" / "cfg.json").read_text())
    subject: Any = SimpleNamespace(run=run, name=f"{run.variant}/seed-{run.seed}", cfg=cfg)
    testbed: Any = SimpleNamespace(cache=SimpleNamespace(attributes={"model": {"id": "toy"}}))
    measurement = Measurement(
        metrics={"figures": {key: Estimate(None) if value is None else value for key, value in figures.items()}},
        counts={"tokens": tokens},
        warnings=list(warnings),
        findings=list(findings),
        parts=dict(parts),
    )
    request: dict[str, Any] = {
        "run": run.fingerprint,
        "cache": run.cache_fingerprint,
        "hook": run.hook,
        "metric": metric.to_dict(),
        "metric_version": metric.version,
        "batch_size": 8,
        "dtype": "float32",
        "mode": "fixed",
        "activations": "stored",
        "baseline": None,
        "works": "w",
    }
    result = envelope(measurement, Request(**request | changes), metric, subject, testbed, "id")
    write_sealed(folder / "eval" / f"{name}.json", result)
    return folder


def write_core(folder: Path, l0: float = 10.0, ev: float | None = 0.9, **keys: Any) -> Path:
    """Writes a result with L0, explained variance and delta CE; `ev` None is undefined because `nothing varies`."""
    variance = Estimate(ev, ev - 0.01, ev + 0.01) if ev is not None else Estimate(None, reason="nothing varies")
    figures = {"l0": Estimate(l0, l0 - 1, l0 + 1), "explained_variance": variance, "delta_ce": 0.5}
    return write_result(folder, figures, **keys)
