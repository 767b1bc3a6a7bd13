"""The evaluations of a run as charts need them: without the entries a latent, which are megabytes, but with their
histograms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from saepipe.evaluate.results.result_file import read
from saepipe.evaluate.results.run_results import check_result
from saepipe.evaluate.stats.histograms import COSINE, LOG10_DENSITY, histogram
from saepipe.train.rundir.load import Run

HISTOGRAMS = "histograms"
_A_LATENT = ("core", "geometry")
"""Evaluations that have an entry a latent."""


def read_results(run: Run) -> dict[str, dict[str, Any]]:
    """`RUN/eval/*.json` by name, those that are of this very run.

    core and geometry come without `eval_result_details` and pairs. core has `histograms` in its saepipe block, as
    geometry has: of density and of the cosine with the nearest decoder row.
    """
    found = {}
    for path in sorted((run.path / "eval").glob("*.json")):
        result = read(path)
        if check_result(result, run, path.name):
            continue
        if path.stem in _A_LATENT:
            details, result["eval_result_details"] = result["eval_result_details"], []
            result["saepipe"].pop("pairs", None)
            if path.stem == "core":
                result["saepipe"][HISTOGRAMS] = _histograms(details)
        found[path.stem] = result
    return found


def _histograms(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """In geometry's words and bins."""
    density = _column(details, "feature_density")
    log10_density = np.log10(density, out=np.full_like(density, np.nan), where=density > 0)
    found = {
        "log10_density": histogram(log10_density, LOG10_DENSITY),
        "max_decoder_cosine": histogram(_column(details, "max_decoder_cosine_sim"), COSINE),
    }
    return {name: asdict(one) for name, one in found.items() if details}


def _column(details: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """(d_sae,) float64; NaN where there is no number."""
    return np.array([entry.get(key) for entry in details], dtype=np.float64)
