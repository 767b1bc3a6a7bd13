"""Evaluations of a run for the charts: histograms instead of the entries per latent, which are megabytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from saepipe.evaluate.results.result_file import read
from saepipe.evaluate.results.run_results import check_result
from saepipe.evaluate.stats.histograms import COSINE, LOG10_DENSITY, histogram
from saepipe.train.rundir.finished_run import Run

HISTOGRAMS = "histograms"
_PER_LATENT = ("core", "geometry")
"""Evaluations with one entry per latent."""


def read_results(run: Run) -> dict[str, dict[str, Any]]:
    """Reads `RUN/eval/*.json` by name; leaves out results that are not of this run.

    core and geometry come without `eval_result_details` and pairs. core gets `histograms` in its saepipe block, like
    geometry: of density and of the cosine with the nearest decoder row.
    """
    results = {}
    for path in sorted((run.path / "eval").glob("*.json")):
        result = read(path)
        if check_result(result, run, path.name):
            continue
        if path.stem in _PER_LATENT:
            details, result["eval_result_details"] = result["eval_result_details"], []
            result["saepipe"].pop("pairs", None)
            if path.stem == "core":
                result["saepipe"][HISTOGRAMS] = _histograms(details)
        results[path.stem] = result
    return results


def _histograms(details: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Returns histograms with geometry's keys and bins."""
    density = _column(details, "feature_density")
    log10_density = np.log10(density, out=np.full_like(density, np.nan), where=density > 0)
    histograms = {
        "log10_density": histogram(log10_density, LOG10_DENSITY),
        "max_decoder_cosine": histogram(_column(details, "max_decoder_cosine_sim"), COSINE),
    }
    return {name: asdict(entry) for name, entry in histograms.items() if details}


def _column(details: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """(d_sae,) float64; NaN for a missing value."""
    return np.array([entry.get(key) for entry in details], dtype=np.float64)
