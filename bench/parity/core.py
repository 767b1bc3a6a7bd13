"""Core in `mode: reference`: every key of eval_result_metrics, and every key and latent of eval_result_details."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from material import BATCH, LINEAR, RECONSTRUCTION_BATCHES, Material
from safetensors.torch import load_file
from table import Row, exactly, relatively

from saepipe.data.terminal.progress import Silent
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.metrics.core.metric import Core
from saepipe.evaluate.results.result_file import plain_value
from saepipe.evaluate.run import evaluate

MetricsAndDetails = tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]
"""eval_result_metrics and eval_result_details of one SAE."""


def compare(material: Material) -> Iterator[Row]:
    """Compares both settings of exclude_special_tokens_from_reconstruction."""
    theirs = load_file(material.folder / "core" / "windows.safetensors")["windows"].numpy()
    ours = material.cache.heldout.contexts
    yield exactly("core", "windows of tokens", theirs.tolist(), ours.tolist(), f"{len(ours)} of {ours.shape[1]}")
    for folder, exclude in (("exclude", True), ("everywhere", False)):
        core = Core(reconstruction_batches=RECONSTRUCTION_BATCHES, exclude_special_tokens=exclude)
        for name, (metrics, details) in _ours(material, core).items():
            path = material.folder / "core" / folder / f"{name}_custom_sae_eval_results.json"
            reference = json.loads(path.read_text())
            part = f"core {name}" if exclude else f"core {name}, everywhere"
            for category, group in reference["eval_result_metrics"].items():
                yield exactly(part, f"keys of {category}", sorted(group), sorted(metrics[category]))
                yield from (relatively(part, key, group[key], metrics[category][key]) for key in group)
            if exclude:
                yield from _latents(part, reference["eval_result_details"], details)


def _ours(material: Material, core: Core) -> dict[str, MetricsAndDetails]:
    """Returns by SAE the results of `evaluate`; for the linear SAE, which has no run, those of the metric."""
    settings = {
        "metrics": [core.to_dict()],
        "mode": "reference",
        "activations": "live",
        "batch_size": BATCH,
        "device": "cpu",
        "artifacts": str(material.folder / "artifacts"),
    }
    paths = evaluate(material.runs, EvaluateConfig.parse(settings), out=material.folder / "ours")
    results = [json.loads(path.read_text()) for path in paths]
    by_sae = {r["saepipe"]["variant"]: (r["eval_result_metrics"], r["eval_result_details"]) for r in results}
    [linear] = core.measure([material.linear], material.testbed(), Silent())
    metrics = {
        name: {key: plain_value(figure) for key, figure in group.items()} for name, group in linear.metrics.items()
    }
    return {**by_sae, LINEAR: (metrics, linear.details)}


def _latents(part: str, theirs: list[dict[str, float]], ours: list[dict[str, float]]) -> Iterator[Row]:
    yield exactly(part, "keys of eval_result_details", sorted(theirs[0]), sorted(ours[0]))
    for key in theirs[0]:
        yield relatively(part, key, [row[key] for row in theirs], [row[key] for row in ours])
