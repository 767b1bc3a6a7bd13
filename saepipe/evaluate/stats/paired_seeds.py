"""Evidence from several training seeds: a variant against its baseline, paired seed by seed.

Both runs of a pair had the same initialisation and the same data order, so their difference is free of what the seed
does to both. The unit is the seed, n of them: no number of documents or examples can replace a seed.

    mean d +- t_(n-1) s / sqrt(n)      s: the standard deviation of the n differences d (n - 1 below)
    p                                  of |mean d| sqrt(n) / s, by Student's t with n - 1 degrees of freedom, two-sided

Where a run's value v_i is itself a mean over its pairs with the other n - 1 runs, as that of a similarity between
seeds, the runs' values are not independent: a seed is in all of them. Their mean is the mean over all pairs, and the
jackknife over seeds, which leaves out a seed with all its pairs, gives it 2 (n - 1) / (n - 2) times the error of
independent values (leaving out seed i moves the mean by 2 (mean v - v_i) / (n - 2); Arvesen, Annals of Mathematical
Statistics 40, 1969). The same holds for differences d_i of such values.
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
"""Range of the differences, relative to the size of the values, up to which it is taken for rounding."""


@dataclass(frozen=True)
class Paired:
    """The paired differences of one metric, and the evidence in them."""

    differences: tuple[float, ...]  # variant - baseline, (num_seeds,)
    mean: Estimate  # with the 95 % interval over seeds, if the differences have a spread
    p: float | None  # under the hypothesis of no difference
    detectable: float | None  # smallest true difference that this many seeds would show with 80 % power

    @property
    def num_seeds(self) -> int:
        return len(self.differences)


def paired(variant: Sequence[float], baseline: Sequence[float], *, of_pairs: bool = False) -> Paired:
    """Compares a variant's values with the baseline's, (num_seeds,) each, at least one, in the same order of seeds.

    `of_pairs` says that each value is a mean over a run's pairs with the other seeds; two seeds are then one pair.

    If all differences are equal there is neither interval nor p: without a spread none can be estimated, and an
    interval of zero width would claim certainty. The same holds for a single seed.
    """
    ours, theirs = np.asarray(variant, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    differences = ours - theirs
    value, n = float(differences.mean()), len(differences)
    values = tuple(differences.tolist())
    if n < (3 if of_pairs else 2) or np.ptp(differences) <= NO_SPREAD * max(abs(ours).max(), abs(theirs).max()):
        return Paired(values, Estimate(value), None, None)
    spread = _spread(differences, of_pairs)
    plain = stats.ttest_1samp(differences, 0.0)
    p = float(2 * stats.t.sf(abs(plain.statistic) / _widening(n), n - 1) if of_pairs else plain.pvalue)
    return Paired(values, mean(values, of_pairs=of_pairs), p, detectable(spread, n))


def mean(values: Sequence[float], *, of_pairs: bool = False) -> Estimate:
    """Returns the mean over seeds with a 95 % interval, mean -+ t_(n-1) s / sqrt(n); a single seed has no interval.

    Nor has a single pair of seeds, if the values are those `of_pairs`.
    """
    array = np.asarray(values, dtype=np.float64)
    value, n = float(array.mean()), len(array)
    if n < (3 if of_pairs else 2):
        return Estimate(value)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * _spread(array, of_pairs) / math.sqrt(n)
    return Estimate(value, value - half, value + half)


def _spread(values: np.ndarray, of_pairs: bool) -> float:
    """Returns the standard deviation of independent values whose mean would be as uncertain, (num_seeds,) -> float."""
    return float(values.std(ddof=1)) * (_widening(len(values)) if of_pairs else 1.0)


def _widening(num_seeds: int) -> float:
    """Returns by how much the jackknife over seeds widens the interval of values that are means over pairs."""
    return 2 * (num_seeds - 1) / (num_seeds - 2)


def sign(estimate: Estimate) -> int:
    """Returns +1 or -1 if the interval is entirely on one side of 0, else 0."""
    if estimate.low is None or estimate.high is None:
        return 0
    return int(estimate.low > 0) - int(estimate.high < 0)


def detectable(spread: float, num_seeds: int, num_tests: int = 1) -> float:
    """Returns the smallest true difference that the paired t test at level 0.05 / num_tests finds with 80 % power.

    It is exact for normal differences of standard deviation `spread`: c spread / sqrt(n), where |T| exceeds
    t_(0.975, n-1), for one test, with probability 0.8 for T noncentral t with n - 1 degrees of freedom and
    noncentrality c (Cohen, Statistical Power Analysis, 1988, chapter 2). With the spread of few seeds it is itself a
    rough estimate.
    """
    return _noncentrality(num_seeds, num_tests) * spread / math.sqrt(num_seeds)


@cache
def _noncentrality(num_seeds: int, num_tests: int) -> float:
    """Noncentrality at which the test reaches 80 % power."""
    degrees = num_seeds - 1
    critical = stats.t.ppf(1 - (1 - LEVEL) / 2 / num_tests, degrees)

    def excess_power(shift: float) -> float:
        return float(stats.nct.sf(critical, degrees, shift) + stats.nct.sf(critical, degrees, -shift)) - POWER

    return float(brentq(excess_power, 0.1, 5 * critical))


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusts p-values, keeping their order: the chance of any false claim among them stays below the level.

    In ascending order, p_(i) becomes the largest of (m - j + 1) p_(j) for j <= i, at most 1 (Holm, Scandinavian
    Journal of Statistics 6, 1979).
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return [float(value) for value in adjusted]
