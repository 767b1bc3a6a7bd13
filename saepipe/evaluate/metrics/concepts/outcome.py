"""What one SAE did on one data set, and figures made of several of those."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from saepipe.data.folders.health import Finding
from saepipe.evaluate.stats.intervals import LEVEL, Estimate

_NAMED_LATENTS = 10

Value = np.ndarray | str
"""A figure with the draws of its bootstrap, (1 + draws,) float64, or why there is none."""


@dataclass(frozen=True)
class Outcome:
    """Of one SAE on one data set, or on one pair of its classes."""

    dataset: str
    name: str
    """of its results"""
    values: Mapping[str, Value]
    """by figure key"""
    of_model: Mapping[str, np.ndarray]
    """the same for all SAEs, by figure key"""
    clean: Mapping[str, float]
    """accuracy of each question's own probe, all latents on"""
    num_train: int
    num_test: int
    """examples of the question that has fewest"""
    num_off: np.ndarray
    """(num_targets, num_sizes): how many latents were switched off"""
    by_class: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    latents: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """by target, those that were switched off, of the largest effects first"""

    def about(self) -> dict[str, Any]:
        """What the figures rest on, as plain data."""
        figures = {key: figure(value) for key, value in self.values.items()}
        return {
            "num_train": self.num_train,
            "num_test": self.num_test,
            "clean_accuracies": dict(self.clean),
            "num_off": self.num_off.tolist(),
            "latents": {target: list(latents[:_NAMED_LATENTS]) for target, latents in self.latents.items()},
            "intervals": {key: [e.low, e.high] for key, e in figures.items() if e.low is not None},
            "undefined": {key: e.reason for key, e in figures.items() if e.reason is not None},
        }


def mean_of(values: Iterable[Value]) -> Value:
    """Draw by draw, over those that have a number (SAEBench 0.6.0, `average_results_dictionaries`)."""
    values = list(values)
    known = [value for value in values if isinstance(value, np.ndarray)]
    if known:
        return np.asarray(np.mean(known, axis=0))
    return "; ".join(dict.fromkeys(value for value in values if isinstance(value, str)))


def figure(value: Value) -> Estimate:
    """With its interval, or its reason."""
    return Estimate(None, reason=value) if isinstance(value, str) else estimate(value)


def number(value: Value) -> float | None:
    return None if isinstance(value, str) else float(value[0])


def estimate(values: np.ndarray) -> Estimate:
    """The first of them, with the interval between the 2.5 % and 97.5 % quantiles of the others, a bootstrap's draws.

    There is no interval without draws, nor where more than 2.5 % of them are undefined (NaN).
    """
    value, draws = float(values[0]), values[1:]
    defined = draws[np.isfinite(draws)]
    if len(defined) == 0 or len(defined) < (1 + LEVEL) / 2 * len(draws):
        return Estimate(value)
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))


def chance_level(outcomes: Sequence[Outcome]) -> list[Finding]:
    """H10: on 80 % of the data sets no clean probe is further from 1/2 than 1.96 standard errors of a coin."""
    at_chance = [
        outcome.name
        for outcome in outcomes
        if all(abs(accuracy - 0.5) <= 0.98 / outcome.num_test**0.5 for accuracy in outcome.clean.values())
    ]
    if len(at_chance) < 0.8 * len(outcomes):
        return []
    message = f"the probes on activations are at chance on {', '.join(at_chance)}: there is nothing to take from them"
    return [Finding("H10", "error", message)]


def told_of_fewer(outcomes: Sequence[Outcome], sizes: Sequence[int]) -> list[str]:
    """A sentence on the sizes for which there were fewer latents to switch off."""
    found = np.concatenate([outcome.num_off for outcome in outcomes])
    short = [str(size) for size, column in zip(sizes, found.T, strict=True) if (column < size).any()]
    if not short:
        return []
    most = found.max(axis=1)
    return [
        f"n = {', '.join(short)}: for some probes fewer latents have an effect, {most.min()} at least; they were off"
    ]
