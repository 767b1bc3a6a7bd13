"""Effects that a number of seeds can see, against simulated t tests."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from saepipe.evaluate.study.power import Power, powers


def share_found(effect: float, spread: float, num_seeds: int) -> float:
    """Returns the share of 20,000 simulated studies whose paired t test finds the effect."""
    differences = np.random.default_rng(0).normal(effect, spread, (20_000, num_seeds))
    return float((stats.ttest_1samp(differences, 0.0, axis=1).pvalue <= 0.05).mean())


def test_the_seeds_needed_find_the_effect_in_four_of_five_studies() -> None:
    power = Power("delta_ce", "delta CE", effect=0.02, spread=0.015, num_seeds=3)
    assert not power.enough
    assert power.seeds_needed is not None
    assert share_found(0.02, 0.015, power.seeds_needed) >= 0.79
    assert share_found(0.02, 0.015, power.seeds_needed - 1) < 0.8
    assert share_found(power.detectable, 0.015, 3) == pytest.approx(0.8, abs=0.015)
    assert str(power).endswith(f"not the effect of interest, 0.02: {power.seeds_needed} seeds are needed")


def test_a_hopeless_study_says_so() -> None:
    power = Power("delta_ce", "delta CE", effect=1e-6, spread=1.0, num_seeds=3)
    assert power.seeds_needed is None
    assert str(power).endswith("more than 200 seeds are needed")


def test_only_known_spreads_have_a_power() -> None:
    known = powers({"a": 0.1, "b": 0.1}, {"b": 0.01}, 5, {"b": "the b"})
    assert [(power.key, power.label, power.enough) for power in known] == [("b", "the b", True)]
