"""Statistics over seeds: intervals with correct coverage, tests that keep their level, and the stated power."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.stats.paired_seeds import Paired, detectable, holm, mean, paired


def test_the_textbook_example() -> None:
    """Differences 1, 2, 3: mean 2, s = 1, t = 2 sqrt(3) = 3.4641; t_(.975, 2) = 4.302653; p = 0.07418."""
    result = paired([11.0, 7.0, 13.0], [10.0, 5.0, 10.0])
    half = 4.302652730 / np.sqrt(3)
    assert result.differences == (1.0, 2.0, 3.0)
    assert (result.mean.value, result.mean.low, result.mean.high) == pytest.approx((2.0, 2 - half, 2 + half))
    assert result.p == pytest.approx(1 - 2 * np.sqrt(3) / np.sqrt(12 + 2), rel=1e-6)  # closed form for 2 degrees


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_the_interval_covers_the_truth_and_p_keeps_its_level(num_seeds: int) -> None:
    """Seed effects common to both sides cancel, even ten times as large as the differences."""
    rng = np.random.default_rng(num_seeds)
    covered, false = 0, 0
    repeats = 2000
    for _ in range(repeats):
        shared = 10 * rng.normal(size=num_seeds)
        result = paired(shared + 0.7 * rng.normal(size=num_seeds), shared + 0.7 * rng.normal(size=num_seeds))
        covered += result.mean.low <= 0.0 <= result.mean.high
        false += result.p < 0.05
    assert 0.94 < covered / repeats < 0.96
    assert covered + false == repeats


@pytest.mark.parametrize("num_seeds", [2, 3, 5, 10])
def test_the_detectable_difference_is_found_with_80_percent_power(num_seeds: int) -> None:
    """Runs the t test by hand on synthetic differences whose true mean is the detectable one."""
    critical = {2: 12.7062047, 3: 4.30265273, 5: 2.77644511, 10: 2.26215716}[num_seeds]
    rng = np.random.default_rng(6)
    d = detectable(0.3, num_seeds) + 0.3 * rng.normal(size=(20_000, num_seeds))
    significant = np.abs(d.mean(1)) * np.sqrt(num_seeds) / d.std(1, ddof=1) > critical
    assert significant.mean() == pytest.approx(0.8, abs=0.01)


def test_the_detectable_difference_scales_with_the_spread() -> None:
    assert detectable(0.6, 4) == pytest.approx(2 * detectable(0.3, 4))
    d = [0.1, 0.5, -0.2, 0.4]
    assert paired(d, [0.0] * 4).detectable == pytest.approx(detectable(float(np.std(d, ddof=1)), 4))


@pytest.mark.parametrize(
    ("variant", "baseline", "difference"),
    [
        ([0.0, 0.0, 0.0], [0.0, 0.0, 0.0], 0.0),
        ([1.5, 2.5, 3.5], [1.0, 2.0, 3.0], 0.5),
        ([0.1 + 0.2, 0.4, 0.7], [0.2, 0.3, 0.6], 0.1),
    ],
    ids=["all zero", "shifted", "equal but for rounding"],
)
def test_no_interval_without_a_spread(variant: list[float], baseline: list[float], difference: float) -> None:
    result = paired(variant, baseline)
    assert result.mean.value == pytest.approx(difference)
    assert (result.mean.low, result.mean.high, result.p, result.detectable) == (None, None, None, None)


def test_a_single_seed_has_no_interval() -> None:
    assert paired([3.0], [1.0]) == Paired((2.0,), Estimate(2.0), None, None)


def of_pairs(similarity: np.ndarray) -> np.ndarray:
    """Returns each run's mean similarity with the others, from a symmetric array (num_seeds, num_seeds)."""
    return (similarity.sum(0) - np.diag(similarity)) / (len(similarity) - 1)


def symmetric(rng: np.random.Generator, num_seeds: int, of_run: float, of_pair: float) -> np.ndarray:
    a, e = of_run * rng.normal(size=num_seeds), of_pair * rng.normal(size=(num_seeds, num_seeds))
    return a[:, None] + a + (e + e.T) / np.sqrt(2)


@pytest.mark.parametrize("num_seeds", [3, 5, 8])
def test_the_error_of_means_over_pairs_is_the_jackknifes(num_seeds: int) -> None:
    """Leaves out each seed with all its pairs, by hand."""
    u = symmetric(np.random.default_rng(num_seeds), num_seeds, 1.0, 1.0)
    without = []
    for seed in range(num_seeds):
        rest = np.delete(np.delete(u, seed, 0), seed, 1)
        without.append(rest[np.triu_indices(num_seeds - 1, 1)].mean())
    error = np.sqrt((num_seeds - 1) / num_seeds * np.sum((np.array(without) - np.mean(without)) ** 2))
    estimate = mean(of_pairs(u), of_pairs=True)
    critical = {3: 4.30265273, 5: 2.77644511, 8: 2.36462425}[num_seeds]
    assert estimate.value == pytest.approx(u[np.triu_indices(num_seeds, 1)].mean())
    assert (estimate.high - estimate.low) / 2 == pytest.approx(critical * error)


@pytest.mark.parametrize(("num_seeds", "of_run"), [(3, 1.0), (5, 1.0), (5, 0.3)])
def test_means_over_pairs_keep_their_level(num_seeds: int, of_run: float) -> None:
    """As independent values they would not: the false claims would be five times as many or more."""
    rng = np.random.default_rng(2)
    repeats, false, naive, covered = 1000, 0, 0, 0
    for _ in range(repeats):
        ours, theirs = (of_pairs(symmetric(rng, num_seeds, of_run, 0.3)) for _ in range(2))
        result = paired(ours, theirs, of_pairs=True)
        false += result.p < 0.05
        covered += result.mean.low <= 0 <= result.mean.high
        naive += paired(ours, theirs).p < 0.05
    assert covered + false == repeats
    assert false / repeats < 0.065 < 0.2 < naive / repeats


def test_two_seeds_are_one_pair() -> None:
    assert mean([0.3, 0.3], of_pairs=True) == Estimate(0.3)
    assert paired([0.3, 0.4], [0.1, 0.3], of_pairs=True).p is None


def test_holm_by_hand() -> None:
    """Sorted .005, .011, .02, .04, .13 times 5, 4, 3, 2, 1: .025, .044, .06, .08, .13."""
    assert holm([0.02, 0.13, 0.005, 0.04, 0.011]) == pytest.approx([0.06, 0.13, 0.025, 0.08, 0.044])


def test_holm_is_monotone_and_at_most_one() -> None:
    """.01 * 3 = .03; then .011 * 2 = .022 is raised to .03; .9 stays; ties share the largest value."""
    assert holm([0.01, 0.011, 0.9]) == pytest.approx([0.03, 0.03, 0.9])
    assert holm([0.6, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_controls_the_chance_of_any_false_claim() -> None:
    rng = np.random.default_rng(7)
    p = rng.random((4000, 3))
    p[:, 0] = 1e-6  # a true effect among them
    false = np.array([min(holm(row)[1:]) <= 0.05 for row in p])
    assert 0.03 < false.mean() <= 0.055
