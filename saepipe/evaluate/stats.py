"""Estimates with what can be said of their uncertainty from one evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number and its interval over documents; where a number cannot be given, the reason."""

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None


def ratio(numerator: np.ndarray, denominator: np.ndarray, undefined: str) -> Estimate:
    """The ratio of two sums over documents, with a 95 % interval for the draw of the documents.

    The interval is the linearised one for a ratio of cluster totals (Cochran, Sampling Techniques, 1977, section
    6.3): with residuals r_d = a_d - value b_d over D documents, se^2 = D / (D - 1) sum_d r_d^2 / (sum_d b_d)^2,
    times Student's t with D - 1 degrees of freedom. Tokens of one document go together, so no independence within
    documents is assumed. It is evaluation noise only: it says nothing of how another training seed would come out.

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
