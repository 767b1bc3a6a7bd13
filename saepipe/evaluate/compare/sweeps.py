"""Variants that differ in nothing but how sparse they are, read at one L0 that all of them reach.

A sweep is one method at several sparsities. Each seed has a curve of its own, of each figure over log L0, so what is
compared at the matched L0 is again one number a seed and side.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saepipe.evaluate.compare.checks import mean_l0
from saepipe.evaluate.compare.difference import Sides
from saepipe.evaluate.results.run_results import Pair, Row
from saepipe.evaluate.stats.l0_curves import Curve, uncovered

SPARSITY = {"l1": "weight", "lp": "weight", "tanh": "weight", "log": "weight", "l0": "weight|target", "l0_target": "l0"}
"""Of each sparsity penalty, the settings that say how sparse; of an architecture it is `k`."""

LEAST_POINTS = 3
"""L0s that a curve must have: two make a straight line, which says nothing of what lies between them."""

Variant = Sequence[Row]
"""The seeds of one config."""


@dataclass(frozen=True)
class Matched:
    """Two sweeps at one L0."""

    l0: float
    num_seeds: int
    sides: Mapping[str, Sides]


def method(variant: Variant) -> str:
    """What a variant is but for how sparse: equal for those of one sweep."""
    settings = {key: value for key, value in variant[0].settings.items() if key not in ("seed", "data_seed", "sae.k")}
    for key, name in variant[0].settings.items():
        if (place := re.fullmatch(r"(penalties\.\d+)\.name", key)) and name in SPARSITY:
            swept = re.compile(rf"{re.escape(place[1])}\.({SPARSITY[name]})(\..+)?")
            settings = {key: value for key, value in settings.items() if not swept.fullmatch(key)}
    return repr(sorted(settings.items(), key=str))


def match(ours: Sequence[Variant], theirs: Sequence[Variant]) -> Matched | str:
    """Both sweeps at the L0 of `theirs[0]` where all curves reach it, else in the middle of what all reach.

    Returns:
        Both sides seed by seed, or why there are none.
    """
    mine, its = _curves(ours), _curves(theirs)
    seeds = tuple(seed for seed in mine if seed in its)
    if not seeds:
        return f"no seed has {LEAST_POINTS} different L0s in both sweeps (of {len(ours)} and {len(theirs)} variants)"
    curves = [side[seed] for side in (mine, its) for seed in seeds]
    low, high = max(curve.span[0] for curve in curves), min(curve.span[1] for curve in curves)
    wanted = mean_l0(theirs[0])
    if wanted is None or uncovered(curves, wanted):
        if low >= high:
            return f"the sweeps share no L0: one begins at {low:.3g}, one ends at {high:.3g}"
        wanted = math.sqrt(low * high)
    keys = set.intersection(*(set(point) for curve in curves for point in curve.points)) - {"l0"}
    read = {key: [[side[seed].at(wanted, key) for seed in seeds] for side in (mine, its)] for key in sorted(keys)}
    return Matched(wanted, len(seeds), {key: (variant, baseline) for key, (variant, baseline) in read.items()})


def _curves(sweep: Sequence[Variant]) -> dict[Pair, Curve]:
    """By seed, of those that have enough L0s."""
    points: dict[Pair, list[dict[str, float]]] = defaultdict(list)
    for variant in sweep:
        for row in variant:
            known = {key: value for key in row.cells if (value := row.value(key)) is not None}
            if known.get("l0", 0.0) > 0:
                points[row.pair].append(known)
    curves = {seed: Curve(tuple(found)) for seed, found in points.items()}
    return {seed: curve for seed, curve in curves.items() if len({p["l0"] for p in curve.points}) >= LEAST_POINTS}
