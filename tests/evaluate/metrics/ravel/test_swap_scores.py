"""Scores, resamples and intervals against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.evaluate.metrics.ravel.swap_scores import SwapScores, entity_counts, estimates, mean_scores, swap_scores
from saepipe.evaluate.stats.intervals import NUM_RESAMPLES

REACHED = np.array([1, 0, 1, 1, 0, 1], dtype=bool)
IS_CAUSE = np.array([1, 1, 1, 0, 0, 0], dtype=bool)
BASES, SOURCES = np.array([1, 2, 4, 1, 2, 4]), np.array([2, 4, 1, 4, 1, 2])


def test_scores_are_shares_of_pairs_that_reached_their_target() -> None:
    scores = swap_scores(REACHED, IS_CAUSE, BASES, SOURCES, entity_counts(np.array([1, 2, 4]), 6, [0]))
    assert (scores.cause[0], scores.isolation[0]) == (2 / 3, 2 / 3)
    assert scores.disentanglement[0] == 2 / 3
    assert scores.num_entities == 3


def test_a_resample_takes_a_pair_as_often_as_its_base_times_its_source() -> None:
    counts = entity_counts(np.array([1, 2, 4]), 6, [0])
    assert counts.shape == (1 + NUM_RESAMPLES, 6)
    assert counts[0].tolist() == [0, 1, 1, 0, 1, 0]
    assert (counts.sum(1) == 3).all()
    scores = swap_scores(REACHED, IS_CAUSE, BASES, SOURCES, counts)
    for resample in range(1, 40):
        taken = [
            reached
            for reached, is_cause, base, source in zip(REACHED, IS_CAUSE, BASES, SOURCES, strict=True)
            if is_cause
            for _ in range(int(counts[resample, base] * counts[resample, source]))
        ]
        expected = np.mean(taken) if taken else np.nan
        assert scores.cause[resample] == pytest.approx(expected, nan_ok=True)


def test_pairs_of_one_entity_are_no_independent_evidence() -> None:
    """200 pairs about 10 entities, whose answers depend on the base alone, vary as much as 10 pairs do."""
    bases = np.repeat(np.arange(10), 20)
    sources = (bases + 1 + np.arange(200) % 9) % 10
    counts = entity_counts(np.arange(10), 10, [0])
    scores = swap_scores(bases < 5, np.ones(200, dtype=bool), bases, sources, counts)
    deviation = np.nanstd(scores.cause[1:])
    assert 0.8 < deviation / np.sqrt(0.25 / 10) < 1.3


def test_an_interval_has_width_even_if_every_pair_reached_its_target() -> None:
    ones = np.ones(1 + NUM_RESAMPLES)
    figures = estimates(SwapScores(ones, ones, num_entities=12))
    for key in ("disentanglement_score", "cause_score", "isolation_score"):
        assert (figures[key].value, figures[key].high) == (1, 1)
        assert figures[key].low == pytest.approx(12 / (12 + 1.959964**2), rel=1e-5)


def test_means_are_taken_resample_by_resample() -> None:
    rng = np.random.default_rng(0)
    parts = [SwapScores(rng.random(5), rng.random(5), num) for num in (30, 20)]
    mean = mean_scores(parts)
    assert np.allclose(mean.cause, (parts[0].cause + parts[1].cause) / 2)
    assert np.allclose(mean.disentanglement, np.mean([p.cause + p.isolation for p in parts], axis=0) / 2)
    assert mean.num_entities == 20
