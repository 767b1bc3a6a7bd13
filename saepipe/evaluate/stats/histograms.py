"""Histograms with fixed edges, so that those of any two runs are comparable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

COSINE = [round(-1 + 0.05 * step, 2) for step in range(41)]
LOG10_DENSITY = [round(-7 + 0.25 * step, 2) for step in range(29)]
NORM = [round(0.1 * step - 0.05, 2) for step in range(42)]
"""For norms of decoder rows: 0 and 1, the most common values, are in the middle of a bin."""


@dataclass(frozen=True)
class Histogram:
    edges: Sequence[float]
    """(num_bins + 1,), ascending; a bin includes its lower edge, the last one both"""
    counts: Sequence[int]
    """(num_bins,)"""


def histogram(values: np.ndarray, edges: Sequence[float]) -> Histogram:
    """Counts the values (num,) that are not NaN; those beyond the edges go into the outermost bins."""
    numbers = values[~np.isnan(values)].clip(edges[0], edges[-1])
    return Histogram(edges, np.histogram(numbers, edges)[0].tolist())
