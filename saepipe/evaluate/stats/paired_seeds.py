"""What several training seeds carry: a variant against its baseline, paired seed by seed.

Both runs of a pair saw one initialisation and one order of the data, so their difference is free of what the seed
does to both. The unit is the seed, n of them: no number of documents or examples stands in for one.

    mean d +- t_(n-1) s / sqrt(n)      s: the standard deviation of the n differences d (n - 1 below)
    p                                  of |mean d| sqrt(n) / s, by Student's t with n - 1 degrees of freedom, two-sided
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats
from scipy.optimize import brentq

from saepipe.evaluate.stats.intervals import LEVEL, Estimate

POWER = 0.8
NO_SPREAD = 1e-9
"""Differences that are equal to so many of the figures' own size have no spread: what is left is rounding."""


@dataclass(frozen=True)
class Paired:
    """The differences of one figure, and what they carry."""

    differences: tuple[float, ...]  # variant - baseline, (num_seeds,)
    mean: Estimate  # with the 95 % interval over seeds, where there is a spread
    p: float | None  # of no difference at all
    detectable: float | None  # the least true difference that so many seeds would show, 4 times in 5

    @property
    def num_seeds(self) -> int:
        return len(self.differences)


def paired(variant: Sequence[float], baseline: Sequence[float]) -> Paired:
    """A variant's figures less the baseline's, (num_seeds,) each, at least one, in the order of the seeds.

    Where all differences are equal there is neither interval nor p: no spread was seen, so none can be estimated,
    and an interval of no width would claim to be certain. So too with a single seed.
    """
    ours, theirs = np.asarray(variant, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    differences = ours - theirs
    value, n = float(differences.mean()), len(differences)
    plain = tuple(differences.tolist())
    if n < 2 or np.ptp(differences) <= NO_SPREAD * max(abs(ours).max(), abs(theirs).max()):
        return Paired(plain, Estimate(value), None, None)
    spread = float(differences.std(ddof=1))
    p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    return Paired(plain, mean(plain), p, detectable(spread, n))


def mean(values: Sequence[float]) -> Estimate:
    """The mean over seeds with a 95 % interval, mean -+ t_(n-1) s / sqrt(n); no interval for a single seed."""
    array = np.asarray(values, dtype=np.float64)
    value, n = float(array.mean()), len(array)
    if n < 2:
        return Estimate(value)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * float(array.std(ddof=1)) / math.sqrt(n)
    return Estimate(value, value - half, value + half)


def sign(estimate: Estimate) -> int:
    """+1 or -1 where the interval lies on one side of 0, else 0."""
    if estimate.low is None or estimate.high is None:
        return 0
    return int(estimate.low > 0) - int(estimate.high < 0)


def detectable(spread: float, num_seeds: int) -> float:
    """The least true difference that the paired t test at level 0.05 finds with 80 % power.

    It is exact for normal differences of standard deviation `spread`: c spread / sqrt(n), where |T| exceeds
    t_(0.975, n-1) with probability 0.8 for T noncentral t with n - 1 degrees of freedom and noncentrality c (Cohen,
    Statistical Power Analysis, 1988, chapter 2). With the spread of few seeds it is itself a rough estimate.
    """
    return _noncentrality(num_seeds) * spread / math.sqrt(num_seeds)


@cache
def _noncentrality(num_seeds: int) -> float:
    """That at which the test has its power."""
    freedom = num_seeds - 1
    critical = stats.t.ppf((1 + LEVEL) / 2, freedom)

    def missing(shift: float) -> float:
        return float(stats.nct.sf(critical, freedom, shift) + stats.nct.sf(critical, freedom, -shift)) - POWER

    return float(brentq(missing, 0.1, 5 * critical))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: the chance of any false claim among them stays below the level.

    Sorted upwards, p_(i) becomes the largest of (m - j + 1) p_(j) for j <= i, at most 1 (Holm, Scandinavian Journal
    of Statistics 6, 1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]
