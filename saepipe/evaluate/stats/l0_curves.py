"""Comparison at matched L0: one curve per seed, read at an L0 that all of them reach, and paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator

from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.stats.paired_seeds import mean

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Curve:
    """The SAEs of one method and seed, one for each value of the sweep."""

    points: tuple[Metrics, ...]  # of the SAEs that did not diverge

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest L0; the empty span (1, 0) if there are fewer than two different L0s."""
        l0 = [point["l0"] for point in self.points]
        return (min(l0), max(l0)) if len(set(l0)) > 1 else (1.0, 0.0)

    def covers(self, l0: float) -> bool:
        low, high = self.span
        return low <= l0 <= high

    def at(self, l0: float, key: str) -> float:
        """Returns a metric at `l0` by monotone cubic interpolation (PCHIP) in log L0; it never extrapolates."""
        assert self.covers(l0)
        return float(PchipInterpolator(*self._columns(key))(math.log(l0)))

    def l0_at_lowest(self, key: str) -> float | None:
        """Returns the L0 at which a metric is lowest, or None if it still falls at an end of the span.

        It is the vertex of the parabola in log L0 through the lowest point and its neighbours on both sides.
        """
        x, y = self._columns(key)
        lowest = int(y.argmin())
        if lowest in (0, len(y) - 1):
            return None
        near = slice(lowest - 1, lowest + 2)
        curvature, slope, _ = np.polyfit(x[near] - x[lowest], y[near], 2)
        return math.exp(x[lowest] - slope / (2 * curvature)) if curvature > 0 else math.exp(x[lowest])

    def _columns(self, key: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns log L0, ascending, and the metric, the mean of points of the same L0; each (num_l0,)."""
        by_l0: dict[float, list[float]] = {}
        for point in self.points:
            by_l0.setdefault(point["l0"], []).append(point[key])
        means = sorted((x, sum(values) / len(values)) for x, values in by_l0.items() if x > 0)
        x, y = (np.array(column) for column in zip(*means, strict=True))
        return np.log(x), y


def why_not_covered(curves: Sequence[Curve], l0: float) -> str | None:
    """Returns the reason why these curves cannot all be read at `l0`; None if they can."""
    if all(curve.covers(l0) for curve in curves):
        return None
    low, high = (pick(curve.span[end] for curve in curves) for end, pick in enumerate((max, min)))
    reached = f"its seeds share only L0 {low:.2f} to {high:.2f}" if low < high else "its seeds share no L0"
    return f"L0 {l0:g} is out of range: {reached}"


def difference(arm: Sequence[Curve], other: Sequence[Curve], l0: float, key: str) -> Estimate:
    """Returns arm - other at `l0`, paired by seed: both had the same world, initialisation and token order."""
    return mean([a.at(l0, key) - b.at(l0, key) for a, b in zip(arm, other, strict=True)])
