"""Cause, isolation and disentanglement, with intervals over entities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saepipe.evaluate.stats.intervals import NUM_RESAMPLES, Estimate, wilson

Replicates = np.ndarray
"""A share, and the same share for each resample of the entities: (1 + num_resamples,) float64."""


SCORES = ("disentanglement_score", "cause_score", "isolation_score")


@dataclass(frozen=True)
class SwapScores:
    """Shares of test pairs that have their target after the latents of one attribute were swapped."""

    cause: Replicates
    isolation: Replicates
    num_entities: int
    """test entities in base prompts"""

    @property
    def disentanglement(self) -> Replicates:
        return (self.cause + self.isolation) / 2


def entity_counts(tested: np.ndarray, num_entities: int, seed: Sequence[int]) -> np.ndarray:
    """Returns how often each entity was taken, (1 + num_resamples, num_entities): once, then in each resample.

    Args:
        tested: numbers of the entities to resample, with replacement; others count 0 times.
        num_entities: entities in the data.
        seed: of the resampling.
    """
    num = len(tested)
    counts = np.zeros((1 + NUM_RESAMPLES, num_entities))
    counts[0, tested] = 1
    counts[1:, tested] = np.random.default_rng(seed).multinomial(num, np.full(num, 1 / num), size=NUM_RESAMPLES)
    return counts


def swap_scores(
    reached: np.ndarray, is_cause: np.ndarray, bases: np.ndarray, sources: np.ndarray, counts: np.ndarray
) -> SwapScores:
    """Scores the pairs of one attribute.

    Base and source are both sampled, so a resample takes entities, and a pair counts as often as its base times as
    often as its source was taken (the pigeonhole bootstrap: Owen, Annals of Applied Statistics 1, 2007), which errs on
    the wide side.

    Args:
        reached: (num_pairs,) bool: the pair has its target.
        is_cause: (num_pairs,) bool: the target is the source's label, not the base's own.
        bases: (num_pairs,) number of each base's entity.
        sources: (num_pairs,) number of each source's entity.
        counts: from `entity_counts`.
    """

    def share(pairs: np.ndarray) -> Replicates:
        weights = counts[:, bases[pairs]] * counts[:, sources[pairs]]
        totals = weights.sum(1)
        return np.divide(weights @ reached[pairs], totals, out=np.full(len(totals), np.nan), where=totals > 0)

    return SwapScores(share(is_cause), share(~is_cause), len(np.unique(bases)))


def mean_scores(scores: Sequence[SwapScores]) -> SwapScores:
    """Returns the plain mean over attributes or classes, resample by resample."""
    cause = np.mean([each.cause for each in scores], axis=0)
    isolation = np.mean([each.isolation for each in scores], axis=0)
    return SwapScores(cause, isolation, min(each.num_entities for each in scores))


def estimates(scores: SwapScores) -> Mapping[str, Estimate]:
    """Returns the three figures by SAEBench's key."""
    return {
        key: _estimate(replicates, scores.num_entities)
        for key, replicates in zip(SCORES, (scores.disentanglement, scores.cause, scores.isolation), strict=True)
    }


def _estimate(replicates: Replicates, num_entities: int) -> Estimate:
    """Returns the value with Wilson's interval for as many independent pairs as would vary as much as the resamples.

    If all resamples agree (every pair reached its target), it is Wilson's for `num_entities`.
    """
    value, variance = float(replicates[0]), float(np.nanvar(replicates[1:]))
    return wilson(value, value * (1 - value) / variance if variance > 0 else num_entities)
