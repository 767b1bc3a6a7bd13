"""Estimates with what can be said of their uncertainty from one evaluation.

All intervals are of 95 % and of evaluation noise only: they say how the figure would move with other documents,
examples or words, and nothing of how another training seed would come out; that is the business of
`saepipe.evaluate.stats.paired_seeds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
DRAWS = 2000
"""Of a bootstrap."""


@dataclass(frozen=True)
class Estimate:
    """A number and its interval over what was drawn to measure it; where a number cannot be given, the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def ratio(numerator: np.ndarray, denominator: np.ndarray, undefined: str) -> Estimate:
    """The ratio of two sums over documents, with a 95 % interval for the draw of the documents.

    The interval is the linearised one for a ratio of cluster totals (Cochran, Sampling Techniques, 1977, section
    6.3): with residuals r_d = a_d - value b_d over D documents, se^2 = D / (D - 1) sum_d r_d^2 / (sum_d b_d)^2,
    times Student's t with D - 1 degrees of freedom. Tokens of one document go together, so no independence within
    documents is assumed.

    Args:
        numerator: (num_documents,) float64 sums.
        denominator: (num_documents,) float64 sums.
        undefined: the reason to give where the denominators sum to zero.
    """
    total = float(denominator.sum())
    if total == 0.0:
        return Estimate(None, reason=undefined)
    value = float(numerator.sum()) / total
    used = (numerator != 0) | (denominator != 0)
    num_documents = int(used.sum())
    if num_documents < 2:
        return Estimate(value)
    residuals = numerator[used] - value * denominator[used]
    error = math.sqrt(num_documents / (num_documents - 1) * float(residuals @ residuals)) / abs(total)
    half = float(stats.t.ppf((1 + LEVEL) / 2, num_documents - 1)) * error
    return Estimate(value, value - half, value + half)


def proportion(correct: np.ndarray, undefined: str = "there is no example") -> Estimate:
    """The share of True, with Wilson's score interval (JASA 22, 1927): it keeps within [0, 1], and near the ends too.

    Args:
        correct: (num_examples,) bool, independent examples.
        undefined: the reason to give where there are none.
    """
    if len(correct) == 0:
        return Estimate(None, reason=undefined)
    found = stats.binomtest(int(np.count_nonzero(correct)), len(correct))
    interval = found.proportion_ci(LEVEL, method="wilson")
    return Estimate(float(found.statistic), float(interval.low), float(interval.high))


def wilson(share: float, effective: float, quantile: float = float(stats.norm.ppf((1 + LEVEL) / 2))) -> Estimate:
    """A share with Wilson's score interval for so many independent examples, which need not be a whole number.

    Where examples go together (tokens of a document, answers about one text), it is the number of independent ones
    that would have the share's variance (Korn and Graubard, Survey Methodology 24, 1998).

    Args:
        share: in [0, 1].
        effective: the number of independent examples.
        quantile: of the normal distribution, or of Student's t where the variance rests on few clusters.
    """
    shrunk = 1 + quantile**2 / effective
    centre = (share + quantile**2 / (2 * effective)) / shrunk
    half = quantile / shrunk * math.sqrt(share * (1 - share) / effective + (quantile / (2 * effective)) ** 2)
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def average(estimates: Sequence[Estimate], undefined: str = "there is nothing to average") -> Estimate:
    """The plain mean of independent estimates (of data sets, of letters); those without a number are left out.

    Limits by MOVER (Zou and Donner, Statistics in Medicine 27, 2008): low = mean - sqrt(sum_i (v_i - low_i)^2) / n,
    and so above. Of symmetric intervals that is the sum of variances; skewed ones stay skewed. There is no interval
    where one of them has none.

    Args:
        estimates: any number of them.
        undefined: the reason to give where none has a number, nor a reason of its own.
    """
    known = [estimate for estimate in estimates if estimate.value is not None]
    if not known:
        reasons = dict.fromkeys(estimate.reason for estimate in estimates if estimate.reason)
        return Estimate(None, reason="; ".join(reasons) or undefined)
    values = np.array([estimate.value for estimate in known], dtype=np.float64)
    value = float(values.mean())
    ends = [(estimate.low, estimate.high) for estimate in known]
    if any(low is None or high is None for low, high in ends):
        return Estimate(value)
    low, high = np.array(ends, dtype=np.float64).T
    below, above = (float(np.linalg.norm(values - end)) / len(known) for end in (low, high))
    return Estimate(value, value - below, value + above)


def two_stage(
    groups: Sequence[np.ndarray],
    seed: int,
    statistic: Callable[..., Any] = np.mean,
    draws: int = DRAWS,
    undefined: str = "there is nothing to average",
) -> Estimate:
    """The mean over groups of a statistic of each, with a bootstrap interval over groups, then values in groups.

    Each draw takes as many groups as there are, with replacement, and of each as many values as it has, with
    replacement (Davison and Hinkley, Bootstrap Methods, 1997, section 3.8); the interval is between the 2.5 % and
    97.5 % quantiles. Noise within groups counts twice in it, once in the groups' own figures, so it is wide rather
    than narrow. There is no interval for fewer than two groups.

    Args:
        groups: a (num_values,) array each (the words of a letter); empty ones are left out.
        seed: of the draws; equal seeds give equal intervals.
        statistic: of each group, over `axis`: np.mean, np.median.
        draws: how many.
        undefined: the reason to give where all groups are empty.
    """
    filled = [np.asarray(group, dtype=np.float64) for group in groups if len(group)]
    if not filled:
        return Estimate(None, reason=undefined)
    value = float(np.mean([statistic(group, axis=-1) for group in filled]))
    if len(filled) < 2:
        return Estimate(value)
    rng = np.random.default_rng(seed)
    picked = rng.integers(len(filled), size=(draws, len(filled)))
    drawn = np.empty(picked.shape)
    for index, group in enumerate(filled):
        here = picked == index
        drawn[here] = statistic(group[rng.integers(len(group), size=(int(here.sum()), len(group)))], axis=-1)
    low, high = np.quantile(drawn.mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
