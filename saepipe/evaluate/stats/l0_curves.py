"""Comparison at matched L0: each seed's own curve, read where all of them are known, and paired by seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.interpolate import PchipInterpolator

from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.stats.paired_seeds import mean

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Curve:
    """The SAEs of one method and seed: one for each value that was swept."""

    points: tuple[Metrics, ...]  # those that did not diverge

    @property
    def span(self) -> tuple[float, float]:
        """The L0 it covers; empty (1, 0) where there are fewer than two points."""
        l0 = [point["l0"] for point in self.points]
        return (min(l0), max(l0)) if len(set(l0)) > 1 else (1.0, 0.0)

    def covers(self, l0: float) -> bool:
        low, high = self.span
        return low <= l0 <= high

    def at(self, l0: float, key: str) -> float:
        """A metric at `l0`, by monotone cubic interpolation (PCHIP) in log L0; never outside the points."""
        assert self.covers(l0)
        by_l0: dict[float, list[float]] = {}
        for point in self.points:
            by_l0.setdefault(point["l0"], []).append(point[key])
        known = sorted((x, sum(values) / len(values)) for x, values in by_l0.items() if x > 0)
        x, y = (np.array(column) for column in zip(*known, strict=True))
        return float(PchipInterpolator(np.log(x), y)(math.log(l0)))


def uncovered(curves: Sequence[Curve], l0: float) -> str | None:
    """Why these curves cannot all be read at `l0`; None where they can."""
    if all(curve.covers(l0) for curve in curves):
        return None
    low, high = (pick(curve.span[end] for curve in curves) for end, pick in enumerate((max, min)))
    reached = f"all of its seeds reach only L0 {low:.2f} to {high:.2f}" if low < high else "its seeds share no L0"
    return f"L0 {l0:g} is outside: {reached}"


def difference(arm: Sequence[Curve], other: Sequence[Curve], l0: float, key: str) -> Estimate:
    """arm - other at `l0`, paired by seed: both saw one world, one initialisation and one order of tokens."""
    return mean([mine.at(l0, key) - its.at(l0, key) for mine, its in zip(arm, other, strict=True)])


def shown(estimate: Estimate | None) -> str:
    """`-0.369 [-0.40, -0.34]`."""
    if estimate is None or estimate.value is None:
        return "-"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:+.3f}"
    return f"{estimate.value:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]"


def plain(estimate: Estimate | None) -> Any:
    return None if estimate is None else {"value": estimate.value, "low": estimate.low, "high": estimate.high}
