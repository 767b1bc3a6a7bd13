"""Comparison of sweeps (variants that differ in sparsity alone) at an L0 that all their curves reach.

Each seed has its own curve of each figure over log L0, so the comparison at the common L0 again has one value per
seed and side.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from saepipe.evaluate.compare.checks import mean_l0
from saepipe.evaluate.compare.difference import Sides
from saepipe.evaluate.results.run_results import Pair, Row
from saepipe.evaluate.stats.l0_curves import Curve, why_not_covered

SPARSITY = {"l1": "weight", "lp": "weight", "tanh": "weight", "log": "weight", "l0": "weight|target", "l0_target": "l0"}
"""Settings that control sparsity, by sparsity penalty; that of an architecture is `k`."""

MIN_POINTS = 3
"""Number of L0s that a curve needs: two make a straight line, which says nothing about what lies between them."""

Variant = Sequence[Row]
"""Runs of one config, one per seed."""


@dataclass(frozen=True)
class AtCommonL0:
    """Two sweeps read at one L0."""

    l0: float
    num_seeds: int
    sides: Mapping[str, Sides]


def method_key(variant: Variant) -> str:
    """Returns the variant's config without seeds and sparsity settings, as text; equal for all variants of a sweep."""
    own = re.compile(r"seed|data_seed|sae\.k(\.(start|end))?")
    settings = {key: value for key, value in variant[0].settings.items() if not own.fullmatch(key)}
    for key, name in variant[0].settings.items():
        if (penalty := re.fullmatch(r"(penalties\.\d+)\.name", key)) and name in SPARSITY:
            swept = re.compile(rf"{re.escape(penalty[1])}\.({SPARSITY[name]})(\..+)?")
            settings = {key: value for key, value in settings.items() if not swept.fullmatch(key)}
    return repr(sorted(settings.items(), key=str))


def read_at_common_l0(ours: Sequence[Variant], theirs: Sequence[Variant]) -> AtCommonL0 | str:
    """Reads both sweeps at the L0 of `theirs[0]` if all curves reach it, else in the middle of what all reach.

    Returns:
        The values of both sides by seed, or why they cannot be read.
    """
    sweeps = (curves_by_seed(ours), curves_by_seed(theirs))
    seeds = tuple(seed for seed in sweeps[0] if seed in sweeps[1])
    if not seeds:
        return f"no seed has {MIN_POINTS} different L0s in both sweeps (of {len(ours)} and {len(theirs)} variants)"
    curves = [sweep[seed] for sweep in sweeps for seed in seeds]
    low, high = max(curve.span[0] for curve in curves), min(curve.span[1] for curve in curves)
    l0 = mean_l0(theirs[0])
    if l0 is None or why_not_covered(curves, l0):
        if low >= high:
            return f"the sweeps share no L0: one starts at {low:.3g}, another ends at {high:.3g}"
        l0 = math.sqrt(low * high)
    keys = set.intersection(*(set(point) for curve in curves for point in curve.points)) - {"l0"}
    sides = {key: [[sweep[seed].at(l0, key) for seed in seeds] for sweep in sweeps] for key in sorted(keys)}
    return AtCommonL0(l0, len(seeds), {key: (variant, baseline) for key, (variant, baseline) in sides.items()})


def sweeps_of(variants: Iterable[Variant]) -> list[list[Variant]]:
    """Groups variants that differ in sparsity alone, in their order."""
    sweeps: dict[str, list[Variant]] = defaultdict(list)
    for variant in variants:
        sweeps[method_key(variant)].append(variant)
    return list(sweeps.values())


def curves_by_seed(sweep: Sequence[Variant], needed: str = "l0") -> dict[Pair, Curve]:
    """Returns the curves by seed, for seeds with enough L0s at which the figure `needed` has a value."""
    points: dict[Pair, list[dict[str, float]]] = defaultdict(list)
    for variant in sweep:
        for row in variant:
            values = {key: value for key in row.cells if (value := row.value(key)) is not None}
            if values.get("l0", 0.0) > 0 and needed in values:
                points[row.pair].append(values)
    curves = {seed: Curve(tuple(seed_points)) for seed, seed_points in points.items()}
    return {seed: curve for seed, curve in curves.items() if len({p["l0"] for p in curve.points}) >= MIN_POINTS}
