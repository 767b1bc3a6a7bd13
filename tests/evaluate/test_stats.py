"""Intervals over documents: right on average, and honest where there is nothing to say."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.evaluate.stats import ratio


def test_a_mean_has_students_interval() -> None:
    """With one token a document the ratio is a mean, and its interval the textbook one."""
    values = np.array([1.0, 2.0, 4.0, 9.0])
    found = ratio(values, np.ones(4), "-")
    half = 3.182446305 * values.std(ddof=1) / 2
    assert (found.value, found.low, found.high) == pytest.approx((4.0, 4.0 - half, 4.0 + half), rel=1e-8)


def test_coverage_where_tokens_of_a_document_go_together() -> None:
    """Documents of uneven length whose tokens share an effect: 95 % of the intervals hold the truth."""
    rng = np.random.default_rng(0)
    hits, repeats = 0, 2000
    for _ in range(repeats):
        lengths = rng.integers(5, 50, 60).astype(float)
        effects = 2.0 + rng.normal(size=60)
        found = ratio(lengths * effects, lengths, "-")
        hits += found.low <= 2.0 <= found.high
    assert 0.92 < hits / repeats < 0.97


def test_agrees_with_a_bootstrap_over_documents() -> None:
    rng = np.random.default_rng(1)
    error, variation = rng.gamma(2.0, size=400), 5 + rng.gamma(2.0, size=400)
    found = ratio(error, variation, "-")
    draws = rng.integers(0, 400, (4000, 400))
    resampled = error[draws].sum(1) / variation[draws].sum(1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert (found.high - found.low) == pytest.approx(high - low, rel=0.05)


def test_documents_without_tokens_do_not_count() -> None:
    a, b = np.array([1.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0])
    padded = ratio(np.append(a, [0.0, 0.0]), np.append(b, [0.0, 0.0]), "-")
    assert padded == ratio(a, b, "-")


def test_nothing_to_say() -> None:
    undefined = ratio(np.ones(3), np.zeros(3), "there is nothing to divide by")
    assert (undefined.value, undefined.reason) == (None, "there is nothing to divide by")
    single = ratio(np.array([3.0]), np.array([2.0]), "-")
    assert (single.value, single.low, single.high) == (1.5, None, None)
