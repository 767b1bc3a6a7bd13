"""Intervals of evaluation noise: correct coverage, and a reason instead of a number if nothing can be estimated."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.evaluate.stats.intervals import Estimate, average, proportion, ratio, two_stage, wilson


def test_a_mean_has_students_interval() -> None:
    """With one token per document the ratio is a mean, and its interval the textbook one."""
    values = np.array([1.0, 2.0, 4.0, 9.0])
    estimate = ratio(values, np.ones(4), "-")
    half = 3.182446305 * values.std(ddof=1) / 2
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((4.0, 4.0 - half, 4.0 + half), rel=1e-8)


def test_coverage_with_tokens_clustered_in_documents() -> None:
    """Documents of uneven length whose tokens share an effect: 95 % of the intervals contain the truth."""
    rng = np.random.default_rng(0)
    hits, repeats = 0, 2000
    for _ in range(repeats):
        lengths = rng.integers(5, 50, 60).astype(float)
        effects = 2.0 + rng.normal(size=60)
        estimate = ratio(lengths * effects, lengths, "-")
        hits += estimate.low <= 2.0 <= estimate.high
    assert 0.92 < hits / repeats < 0.97


def test_agrees_with_a_bootstrap_over_documents() -> None:
    rng = np.random.default_rng(1)
    error, variation = rng.gamma(2.0, size=400), 5 + rng.gamma(2.0, size=400)
    estimate = ratio(error, variation, "-")
    documents = rng.integers(0, 400, (4000, 400))
    resampled = error[documents].sum(1) / variation[documents].sum(1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert (estimate.high - estimate.low) == pytest.approx(high - low, rel=0.05)


def test_documents_without_tokens_do_not_count() -> None:
    a, b = np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0])
    padded = ratio(np.append(a, [0.0, 0.0]), np.append(b, [0.0, 0.0]), "-")
    assert padded == ratio(a, b, "-")


def test_a_ratio_without_denominator_or_interval() -> None:
    undefined = ratio(np.ones(3), np.zeros(3), "there is nothing to divide by")
    assert (undefined.value, undefined.reason) == (None, "there is nothing to divide by")
    single = ratio(np.array([3.0]), np.array([2.0]), "-")
    assert (single.value, single.low, single.high) == (1.5, None, None)


@pytest.mark.parametrize(("num_right", "num"), [(0, 7), (3, 10), (40, 40), (611, 1000)])
def test_wilson_matches_scipy_for_whole_numbers_of_examples(num_right: int, num: int) -> None:
    ours, scipys = wilson(num_right / num, num), proportion(np.arange(num) < num_right)
    assert (ours.low, ours.high) == pytest.approx((scipys.low, scipys.high), abs=1e-12)


def test_a_proportion_has_wilsons_interval() -> None:
    """Against the closed form: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)."""
    n, p, z = 40, 0.9, 1.959963985
    centre, half = p + z**2 / (2 * n), z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    estimate = proportion(np.arange(n) < 36)
    expected = (p, (centre - half) / (1 + z**2 / n), (centre + half) / (1 + z**2 / n))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(expected, rel=1e-8)


def test_a_perfect_proportion_is_not_certain() -> None:
    estimate = proportion(np.ones(20, dtype=bool))
    assert (estimate.value, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(0.8389, abs=1e-4)
    assert proportion(np.ones(0, dtype=bool)) == Estimate(None, reason="there is no example")


def test_errors_of_an_average_add_in_quadrature() -> None:
    estimate = average([Estimate(1.0, 0.7, 1.3), Estimate(3.0, 2.6, 3.4)])
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx((2.0, 1.75, 2.25))
    skewed = average([Estimate(1.0, 0.9, 1.3), Estimate(3.0, 2.9, 3.4)])
    assert (skewed.low, skewed.high) == pytest.approx((2 - np.sqrt(0.02) / 2, 2.25))


def test_an_average_skips_estimates_without_a_number() -> None:
    missing = Estimate(None, reason="too few examples")
    assert average([Estimate(1.0, 0.5, 1.5), missing]) == Estimate(1.0, 0.5, 1.5)
    assert average([Estimate(1.0), Estimate(2.0, 1.5, 2.5)]) == Estimate(1.5)
    assert average([missing, missing]) == missing
    assert average([]).reason == "there is nothing to average"


def test_coverage_of_an_average_of_proportions() -> None:
    rng = np.random.default_rng(2)
    rates, repeats = np.array([0.5, 0.7, 0.9, 0.97]), 1000
    hits = 0
    for _ in range(repeats):
        estimate = average([proportion(rng.random(60) < rate) for rate in rates])
        hits += estimate.low <= rates.mean() <= estimate.high
    assert 0.93 < hits / repeats < 0.98


def test_two_stages_cover_the_mean_of_all_groups() -> None:
    """Letters and words each have noise of their own: coverage is at least 95 %, but not complete."""
    rng = np.random.default_rng(3)
    repeats, hits = 300, 0
    for repeat in range(repeats):
        groups = [effect + rng.normal(size=15) for effect in 2.0 + 0.5 * rng.normal(size=20)]
        estimate = two_stage(groups, seed=repeat, num_resamples=400)
        hits += estimate.low <= 2.0 <= estimate.high
    assert 0.93 < hits / repeats < 0.995


def test_two_stages_have_the_variance_of_both_stages() -> None:
    """By hand: a bootstrap's variance of a mean of g group means is sum (m - mean)^2 / g^2 + sum s^2 / n / g^2."""
    rng = np.random.default_rng(4)
    groups = [rng.normal(effect, 1.0, size) for effect, size in ((0, 10), (1, 20), (2, 15), (4, 12), (1, 30))]
    means = np.array([group.mean() for group in groups])
    within = sum(group.var() / len(group) for group in groups) / 25
    spread = 2 * 1.96 * np.sqrt(((means - means.mean()) ** 2).sum() / 25 + within)
    estimate = two_stage(groups, seed=0, num_resamples=20_000)
    assert estimate.value == pytest.approx(means.mean())
    assert estimate.high - estimate.low == pytest.approx(spread, rel=0.05)


def test_two_stages_depend_on_the_seed_alone() -> None:
    groups = [np.array([0.0, 1.0, 1.0]), np.array([]), np.array([0.0, 0.0])]
    assert two_stage(groups, seed=1) == two_stage(groups, seed=1)
    assert two_stage(groups, seed=1).value == pytest.approx(1 / 3)
    assert two_stage(groups, seed=1, statistic=np.median).value == pytest.approx(0.5)
    assert two_stage(groups[:2], seed=1) == Estimate(2 / 3)
    assert two_stage([], seed=1).reason == "there is nothing to average"
