"""Estimates with the uncertainty that one evaluation can show.

All intervals are 95 % intervals of evaluation noise alone: they show how a number would move with other documents,
examples or words, not with another training seed. For seeds, see `saepipe.evaluate.stats.paired_seeds`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

LEVEL = 0.95
NUM_RESAMPLES = 2000
"""Resamples of a bootstrap."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over the sample that it was measured on; or the reason why there is no number."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def ratio(numerator: np.ndarray, denominator: np.ndarray, undefined: str) -> Estimate:
    """Returns the ratio of two sums over documents, with a 95 % interval for the sampling of the documents.

    The interval is the linearised one for a ratio of cluster totals (Cochran, Sampling Techniques, 1977, section
    6.3): with residuals r_d = a_d - value b_d over D documents, se^2 = D / (D - 1) sum_d r_d^2 / (sum_d b_d)^2,
    times Student's t with D - 1 degrees of freedom. The tokens of a document form one cluster, so independence
    within documents is not assumed.

    Args:
        numerator: (num_documents,) float64 sums.
        denominator: (num_documents,) float64 sums.
        undefined: the reason to give if the denominators sum to zero.
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
    """Returns the share of True, with Wilson's score interval (JASA 22, 1927), which is sound near 0 and 1 too.

    Args:
        correct: (num_examples,) bool, independent examples.
        undefined: the reason to give if there are no examples.
    """
    if len(correct) == 0:
        return Estimate(None, reason=undefined)
    test = stats.binomtest(int(np.count_nonzero(correct)), len(correct))
    interval = test.proportion_ci(LEVEL, method="wilson")
    return Estimate(float(test.statistic), float(interval.low), float(interval.high))


def wilson(share: float, effective: float, quantile: float = float(stats.norm.ppf((1 + LEVEL) / 2))) -> Estimate:
    """Returns a share with Wilson's score interval for an effective, possibly fractional number of examples.

    If examples are clustered (tokens of a document, answers about one text), the effective number is that of the
    independent examples whose share would have the same variance (Korn and Graubard, Survey Methodology 24, 1998).

    Args:
        share: in [0, 1].
        effective: the number of independent examples.
        quantile: of the normal distribution, or of Student's t if the variance comes from few clusters.
    """
    shrunk = 1 + quantile**2 / effective
    centre = (share + quantile**2 / (2 * effective)) / shrunk
    half = quantile / shrunk * math.sqrt(share * (1 - share) / effective + (quantile / (2 * effective)) ** 2)
    return Estimate(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def average(estimates: Sequence[Estimate], undefined: str = "there is nothing to average") -> Estimate:
    """Returns the plain mean of independent estimates (of datasets, of letters), skipping those without a number.

    Limits by MOVER (Zou and Donner, Statistics in Medicine 27, 2008): low = mean - sqrt(sum_i (v_i - low_i)^2) / n,
    and correspondingly for high. For symmetric intervals this adds variances; skewed intervals stay skewed. If any
    estimate lacks an interval, so does the mean.

    Args:
        estimates: any number of estimates.
        undefined: the reason to give if no estimate has a number or a reason of its own.
    """
    defined = [estimate for estimate in estimates if estimate.value is not None]
    if not defined:
        reasons = dict.fromkeys(estimate.reason for estimate in estimates if estimate.reason)
        return Estimate(None, reason="; ".join(reasons) or undefined)
    values = np.array([estimate.value for estimate in defined], dtype=np.float64)
    value = float(values.mean())
    limits = [(estimate.low, estimate.high) for estimate in defined]
    if any(low is None or high is None for low, high in limits):
        return Estimate(value)
    low, high = np.array(limits, dtype=np.float64).T
    below, above = (float(np.linalg.norm(values - limit)) / len(defined) for limit in (low, high))
    return Estimate(value, value - below, value + above)


def two_stage(
    groups: Sequence[np.ndarray],
    seed: int,
    statistic: Callable[..., Any] = np.mean,
    num_resamples: int = NUM_RESAMPLES,
    undefined: str = "there is nothing to average",
) -> Estimate:
    """Returns the mean over groups of a statistic of each, with a two-stage bootstrap interval.

    Each resample takes as many groups as there are, with replacement, and from each as many values as it has, with
    replacement (Davison and Hinkley, Bootstrap Methods, 1997, section 3.8); the interval is between the 2.5 % and
    97.5 % quantiles. It counts noise within groups twice, once through the groups' own statistics, so it errs on the
    wide side. There is no interval for fewer than two groups.

    Args:
        groups: one (num_values,) array each (the words of a letter); empty groups are skipped.
        seed: of the resampling; equal seeds give equal intervals.
        statistic: of each group, over `axis`: np.mean, np.median.
        num_resamples: number of resamples.
        undefined: the reason to give if all groups are empty.
    """
    filled = [np.asarray(group, dtype=np.float64) for group in groups if len(group)]
    if not filled:
        return Estimate(None, reason=undefined)
    value = float(np.mean([statistic(group, axis=-1) for group in filled]))
    if len(filled) < 2:
        return Estimate(value)
    rng = np.random.default_rng(seed)
    sampled = rng.integers(len(filled), size=(num_resamples, len(filled)))
    statistics = np.empty(sampled.shape)
    for index, group in enumerate(filled):
        slots = sampled == index
        statistics[slots] = statistic(group[rng.integers(len(group), size=(int(slots.sum()), len(group)))], axis=-1)
    low, high = np.quantile(statistics.mean(axis=1), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high))
