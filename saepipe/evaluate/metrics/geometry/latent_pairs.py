"""How two latents fire together: conditional probabilities and lift of pairs, with intervals over documents.

The parent of a pair is the latent that fires more often, the child the other, as in `saepipe.train.pairs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from saepipe.evaluate.metrics.geometry.joint_firing import PairCounts
from saepipe.evaluate.stats.intervals import LEVEL, Estimate, wilson

SILENT = "a latent of the pair was never active on the held-out tokens"


@dataclass(frozen=True)
class Together:
    """Of each pair; NaN where a latent of it is never active."""

    j_given_i: np.ndarray
    """(num_pairs,): P(j | i)"""
    i_given_j: np.ndarray
    """(num_pairs,)"""
    lift: np.ndarray
    """(num_pairs,): P(both) / (P(i) P(j)), 1 for independent latents"""
    i_is_parent: np.ndarray
    """(num_pairs,) bool"""

    @property
    def conditional(self) -> np.ndarray:
        """(num_pairs,): P(parent | child)"""
        return np.where(self.i_is_parent, self.i_given_j, self.j_given_i)


def together(counts: PairCounts) -> Together:
    i, j, both = (column.sum(0) for column in (counts.i, counts.j, counts.both))
    with np.errstate(invalid="ignore", divide="ignore"):
        fires = (i > 0) & (j > 0)
        given_i, given_j = (np.where(fires, both / of, np.nan) for of in (i, j))
        return Together(given_i, given_j, given_j * counts.tokens.sum() / i, i >= j)


def mean_conditional(counts: PairCounts) -> Estimate:
    """The mean of P(parent | child) over the pairs whose latents fire, and its interval over documents."""
    found = together(counts)
    fires = ~np.isnan(found.lift)
    if not fires.any():
        return Estimate(None, reason=SILENT)
    child = np.where(found.i_is_parent, counts.j, counts.i)[:, fires]
    p = found.conditional[fires]
    return over_documents(float(p.mean()), ((counts.both[:, fires] - p * child) / child.sum(0)).mean(1))


def mean_lift(counts: PairCounts) -> Estimate:
    """The mean lift of the pairs whose latents fire, and its interval over documents."""
    lift = together(counts).lift
    fires = ~np.isnan(lift)
    if not fires.any():
        return Estimate(None, reason=SILENT)
    return over_documents(float(lift[fires].mean()), _lift_residuals(counts, lift)[:, fires].mean(1))


def conditional(both: np.ndarray, given: np.ndarray) -> Estimate:
    """The share of the `given` tokens that are also `both`, (num_documents,) each, and its interval over documents.

    Wilson's, at the effective number of tokens, p (1 - p) / se^2 with the se of documents as clusters (Dean and
    Pagano, Survey Methodology 41, 2015); where no document differs from another, each counts as one token.
    """
    num = float(given.sum())
    if num == 0:
        return Estimate(None, reason=SILENT)
    p, num_documents = float(both.sum()) / num, int((given > 0).sum())
    if num_documents < 2:
        return Estimate(p)
    error = _error((both - p * given)[given > 0] / num)
    effective = min(num, p * (1 - p) / error**2) if error > 0 and 0 < p < 1 else num_documents
    return wilson(p, effective, _t(num_documents))


def lifts(counts: PairCounts) -> list[Estimate]:
    """The lift of each pair and its interval over documents.

    On the logarithm, lift exp(± t se / lift), by linearisation. A pair that never fires together has lift 0, and as
    upper limit that of P(j | i) / P(j) or of P(i | j) / P(i), whichever says more.
    """
    found = together(counts).lift
    residuals = _lift_residuals(counts, found)
    num_tokens = counts.tokens.sum()
    estimates = []
    for pair, lift in enumerate(found.tolist()):
        i, j, both = counts.i[:, pair], counts.j[:, pair], counts.both[:, pair]
        if math.isnan(lift):
            estimates.append(Estimate(None, reason=SILENT))
        elif lift == 0:
            ends = ((conditional(both, i).high, j), (conditional(both, j).high, i))
            highs = [high * num_tokens / float(other.sum()) for high, other in ends if high is not None]
            estimates.append(Estimate(0.0, 0.0, min(highs)) if highs else Estimate(0.0))
        else:
            num_documents = int((i + j > 0).sum())
            factor = math.exp(_t(num_documents) * _error(residuals[:, pair]) / lift) if num_documents > 1 else None
            estimates.append(Estimate(lift, lift / factor, lift * factor) if factor else Estimate(lift))
    return estimates


def over_documents(value: float, residuals: np.ndarray) -> Estimate:
    """A value with its linearised interval from what each document adds to it, (num_documents,) summing to 0."""
    if len(residuals) < 2:
        return Estimate(value)
    half = _t(len(residuals)) * _error(residuals)
    return Estimate(value, value - half, value + half)


def _lift_residuals(counts: PairCounts, lift: np.ndarray) -> np.ndarray:
    """(num_documents, num_pairs): the derivative of N both / (i j), document by document."""
    i, j, num_tokens = counts.i.sum(0), counts.j.sum(0), counts.tokens.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (counts.tokens / num_tokens)[:, None] - counts.i / i - counts.j / j
        return counts.both * (num_tokens / (i * j)) + lift * share


def _error(residuals: np.ndarray) -> float:
    """The standard error of a sum over documents."""
    return math.sqrt(len(residuals) / (len(residuals) - 1) * float(residuals @ residuals))


@cache
def _t(num_documents: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, num_documents - 1))
