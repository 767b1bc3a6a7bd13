"""Scores of one SAE on one dataset, and metric values averaged over datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saepipe.data.folders.health import Finding
from saepipe.evaluate.stats.intervals import LEVEL, Estimate

_MAX_LISTED_LATENTS = 10

Score = np.ndarray | str
"""A value and its bootstrap resamples, (1 + num_resamples,) float64, or the reason why it is undefined."""


@dataclass(frozen=True)
class Outcome:
    """Scores of one SAE on one dataset, or on one pair of its classes."""

    dataset: str
    name: str
    """name of the dataset's or pair's results"""
    scores: Mapping[str, Score]
    """by metric key"""
    llm_scores: Mapping[str, np.ndarray]
    """by metric key; the same for all SAEs"""
    clean_accuracies: Mapping[str, float]
    """accuracy of each question's own probe without ablation"""
    num_train: int
    num_test: int
    """examples of the question with the fewest"""
    num_ablated: np.ndarray
    """(num_targets, num_sizes): number of latents ablated"""
    by_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    latents: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """latents ablated, by target, those with the largest effects first"""

    def summary(self) -> dict[str, Any]:
        """Returns sample sizes, accuracies, ablated latents, intervals and reasons as plain data."""
        estimates = {key: to_estimate(score) for key, score in self.scores.items()}
        return {
            "num_train": self.num_train,
            "num_test": self.num_test,
            "clean_accuracies": dict(self.clean_accuracies),
            "num_off": self.num_ablated.tolist(),
            "latents": {target: list(latents[:_MAX_LISTED_LATENTS]) for target, latents in self.latents.items()},
            "intervals": {key: [e.low, e.high] for key, e in estimates.items() if e.low is not None},
            "undefined": {key: e.reason for key, e in estimates.items() if e.reason is not None},
        }


def mean_score(scores: Iterable[Score]) -> Score:
    """Averages the defined scores, resample by resample (SAEBench 0.6.0, `average_results_dictionaries`)."""
    scores = list(scores)
    defined = [score for score in scores if isinstance(score, np.ndarray)]
    if defined:
        return np.asarray(np.mean(defined, axis=0))
    return "; ".join(dict.fromkeys(score for score in scores if isinstance(score, str)))


def to_estimate(score: Score) -> Estimate:
    """Returns the value with its interval, or the reason why it is undefined."""
    return Estimate(None, reason=score) if isinstance(score, str) else bootstrap_estimate(score)


def to_number(score: Score) -> float | None:
    return None if isinstance(score, str) else float(score[0])


def bootstrap_estimate(values: np.ndarray) -> Estimate:
    """Returns the first value, with the interval between the 2.5 % and 97.5 % quantiles of the others, its resamples.

    There is no interval if there are no resamples or more than 2.5 % of them are undefined (NaN).
    """
    value, resamples = float(values[0]), values[1:]
    defined = resamples[np.isfinite(resamples)]
    if len(defined) == 0 or len(defined) < (1 + LEVEL) / 2 * len(resamples):
        return Estimate(value)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def check_chance_level(outcomes: Sequence[Outcome]) -> list[Finding]:
    """Checks H10: on 80 % of the datasets no clean probe is further from 1/2 than 1.96 standard errors of a coin."""
    at_chance = [
        outcome.name
        for outcome in outcomes
        if all(abs(accuracy - 0.5) <= 0.98 / outcome.num_test**0.5 for accuracy in outcome.clean_accuracies.values())
    ]
    if len(at_chance) < 0.8 * len(outcomes):
        return []
    message = f"the probes on activations are at chance on {', '.join(at_chance)}: there is no accuracy to remove"
    return [Finding("H10", "error", message)]


def missing_latents_warnings(outcomes: Sequence[Outcome], sizes: Sequence[int]) -> list[str]:
    """Returns at most one warning, on the sizes for which there were fewer latents to ablate."""
    num_ablated = np.concatenate([outcome.num_ablated for outcome in outcomes])
    short = [str(size) for size, column in zip(sizes, num_ablated.T, strict=True) if (column < size).any()]
    if not short:
        return []
    most = num_ablated.max(axis=1)
    return [f"n = {', '.join(short)}: only latents with an effect were ablated, for some probes as few as {most.min()}"]
