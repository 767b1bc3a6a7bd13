"""Figures of one seed from its agreements with the others: means over the pairs, and latents found in all seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saepipe.evaluate.metrics.geometry.baseline_change import NEARLY_IDENTICAL, SAME
from saepipe.evaluate.metrics.stability.agreement import Agreements, Kind

NAMES: dict[Kind, str] = {"decoder": "pw_mcc", "encoder": "pw_mcc_encoder", "activation": "pw_mcc_activation"}
FOUND = {f"frac_in_all_seeds_over_{100 * limit:.0f}": limit for limit in (SAME, NEARLY_IDENTICAL)}

Values = Mapping[str, float]
"""Figures by key."""


@dataclass(frozen=True)
class SeedFigures:
    """Figures of one seed, and the same of dictionaries that agree by chance, means over draws."""

    own: Values
    random: Values
    flipped: Values

    def with_excess(self) -> Values:
        """Returns the figures, and their excess over either kind of chance."""
        above = {
            f"{key}_above_{name}": value - chance[key]
            for name, chance in (("random", self.random), ("flipped", self.flipped))
            for key, value in self.own.items()
        }
        return {**self.own, **above}


def figures(agreements: Agreements, density: np.ndarray) -> Values:
    """Returns the figures of one seed, whose latents have this density (num_latents,): unweighted and weighted."""
    values = {}
    for kind, name in NAMES.items():
        values[name] = float(np.mean([agreement.mean for agreement in agreements[kind]]))
        values[f"{name}_weighted"] = float(np.mean([agreement.weighted for agreement in agreements[kind]]))
    least = least_cosine(agreements)
    for name, limit in FOUND.items():
        values[name] = float((least > limit).mean())
        values[f"{name}_weighted"] = float(np.average(least > limit, weights=density))
    return values


def least_cosine(agreements: Agreements) -> np.ndarray:
    """Returns the smallest decoder cosine of each latent with its matches in the other seeds, (num_latents,)."""
    return np.min([agreement.ours for agreement in agreements["decoder"]], axis=0)


def mean_values(draws: Sequence[Values]) -> Values:
    return {key: float(np.mean([draw[key] for draw in draws])) for key in draws[0]}
