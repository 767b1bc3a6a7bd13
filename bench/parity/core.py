"""Core, mode reference: every key of eval_result_metrics, and every latent's of eval_result_details."""

from __future__ import annotations

import json
from collections.abc import Iterator

from material import RECONSTRUCTION_BATCHES, Material
from safetensors.torch import load_file
from table import Row, exactly, relatively

from saepipe.data.progress import Silent
from saepipe.evaluate.envelope import plain
from saepipe.evaluate.metrics.core import Core


def compare(material: Material) -> Iterator[Row]:
    """Of both settings of exclude_special_tokens_from_reconstruction."""
    theirs = load_file(material.folder / "core" / "windows.safetensors")["windows"].numpy()
    ours = material.cache.heldout.contexts
    yield exactly("core", "windows of tokens", theirs.tolist(), ours.tolist(), f"{len(ours)} of {ours.shape[1]}")
    for folder, exclude in (("exclude", True), ("everywhere", False)):
        core = Core(reconstruction_batches=RECONSTRUCTION_BATCHES, exclude_special_tokens=exclude)
        found = core.measure(material.subjects, material.testbed(), Silent())
        for subject, measurement in zip(material.subjects, found, strict=True):
            name = subject.run.variant
            path = material.folder / "core" / folder / f"{name}_custom_sae_eval_results.json"
            reference = json.loads(path.read_text())
            part = f"core {name}" if exclude else f"core {name}, everywhere"
            for category, group in reference["eval_result_metrics"].items():
                ours_of = measurement.metrics[category]
                yield exactly(part, f"keys of {category}", sorted(group), sorted(ours_of))
                yield from (relatively(part, key, group[key], plain(ours_of[key])) for key in group)
            if exclude:
                yield from _latents(part, reference["eval_result_details"], measurement.details)


def _latents(part: str, theirs: list[dict[str, float]], ours: list[dict[str, float]]) -> Iterator[Row]:
    yield exactly(part, "keys of eval_result_details", sorted(theirs[0]), sorted(ours[0]))
    for key in theirs[0]:
        yield relatively(part, key, [row[key] for row in theirs], [row[key] for row in ours])
