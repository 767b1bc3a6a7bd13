"""Effects that a number of seeds can see, against simulated t tests."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from saepipe.evaluate.study.power import Power, spreads_over_seeds


def share_found(effect: float, spread: float, num_seeds: int, level: float = 0.05) -> float:
    """Returns the share of 20,000 simulated studies whose paired t test finds the effect."""
    differences = np.random.default_rng(0).normal(effect, spread, (20_000, num_seeds))
    return float((stats.ttest_1samp(differences, 0.0, axis=1).pvalue <= level).mean())


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


def test_several_primary_metrics_need_a_larger_effect() -> None:
    """Holm's correction asks the first of three for a third of the level."""
    power = Power("delta_ce", "delta CE", effect=0.02, spread=0.015, num_seeds=5, num_tests=3)
    assert share_found(power.detectable, 0.015, 5, 0.05 / 3) == pytest.approx(0.8, abs=0.015)


def test_a_pilot_calls_a_study_hopeless_only_if_it_can_tell() -> None:
    """Of pilots of one pair whose true spread just suffices, a tenth calls the study hopeless."""
    effect = Power("a", "a", 1.0, 1.0, 5).detectable
    spreads = abs(np.random.default_rng(0).normal(0, 1, 20_000))  # of two differences: a standard deviation of 1 degree
    hopeless = [Power("a", "a", effect, float(spread), 5, degrees=1).hopeless for spread in spreads[:4000]]
    assert np.mean(hopeless) == pytest.approx(0.1, abs=0.015)
    assert Power("a", "a", effect, 1.01, 5).hopeless


def test_controls_do_not_spread_the_pilot() -> None:
    def verdict(name: str, *differences: float) -> Any:
        change = SimpleNamespace(key="a", primary=True, paired=SimpleNamespace(differences=differences, num_seeds=2))
        return SimpleNamespace(variant=name, changes=[change])

    table: Any = SimpleNamespace(verdicts=[verdict("x", 1.0, 3.0), verdict("y", 0.0, 4.0), verdict("frozen", 0, 99.0)])
    spreads, degrees = spreads_over_seeds([table], {"x", "y"})
    assert spreads == {"a": pytest.approx(((2 + 8) / 2) ** 0.5)}
    assert degrees == 2
