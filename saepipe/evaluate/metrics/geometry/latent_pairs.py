"""Joint activity of two latents: conditional probabilities and lift of pairs, with intervals over documents.

The parent of a pair is the latent that is active more often, the child the other, as in `saepipe.train.pairs`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from saepipe.evaluate.metrics.geometry.joint_firing import PairCounts
from saepipe.evaluate.stats.intervals import LEVEL, Estimate, wilson

NEVER_ACTIVE = "a latent of the pair was never active on the held-out tokens"


@dataclass(frozen=True)
class JointStats:
    """Statistics of each pair; NaN if one of its latents is never active."""

    j_given_i: np.ndarray
    """(num_pairs,): P(j | i)"""
    i_given_j: np.ndarray
    """(num_pairs,): P(i | j)"""
    lift: np.ndarray
    """(num_pairs,): P(both) / (P(i) P(j)), 1 for independent latents"""
    i_is_parent: np.ndarray
    """(num_pairs,) bool"""

    @property
    def conditional(self) -> np.ndarray:
        """(num_pairs,): P(parent | child)"""
        return np.where(self.i_is_parent, self.i_given_j, self.j_given_i)


def joint_stats(counts: PairCounts) -> JointStats:
    i, j, both = (column.sum(0) for column in (counts.i, counts.j, counts.both))
    with np.errstate(invalid="ignore", divide="ignore"):
        defined = (i > 0) & (j > 0)
        given_i, given_j = (np.where(defined, both / count, np.nan) for count in (i, j))
        return JointStats(given_i, given_j, given_j * counts.tokens.sum() / i, i >= j)


def mean_conditional(counts: PairCounts) -> Estimate:
    """Returns the mean P(parent | child) over pairs without a dead latent, with an interval over documents."""
    statistics = joint_stats(counts)
    defined = ~np.isnan(statistics.lift)
    if not defined.any():
        return Estimate(None, reason=NEVER_ACTIVE)
    child = np.where(statistics.i_is_parent, counts.j, counts.i)[:, defined]
    p = statistics.conditional[defined]
    return with_document_interval(float(p.mean()), ((counts.both[:, defined] - p * child) / child.sum(0)).mean(1))


def mean_lift(counts: PairCounts) -> Estimate:
    """Returns the mean lift over pairs without a dead latent, with an interval over documents."""
    lift = joint_stats(counts).lift
    defined = ~np.isnan(lift)
    if not defined.any():
        return Estimate(None, reason=NEVER_ACTIVE)
    return with_document_interval(float(lift[defined].mean()), _lift_residuals(counts, lift)[:, defined].mean(1))


def conditional(both: np.ndarray, given: np.ndarray) -> Estimate:
    """Returns the share of `given` tokens that are also `both`, (num_documents,) each, with an interval over documents.

    The interval is Wilson's at the effective number of tokens, p (1 - p) / se^2, with the se of documents as clusters
    (Dean and Pagano, Survey Methodology 41, 2015). If all documents have the same share, each counts as one token.
    """
    num = float(given.sum())
    if num == 0:
        return Estimate(None, reason=NEVER_ACTIVE)
    p, num_documents = float(both.sum()) / num, int((given > 0).sum())
    if num_documents < 2:
        return Estimate(p)
    error = _se((both - p * given)[given > 0] / num)
    effective = min(num, p * (1 - p) / error**2) if error > 0 and 0 < p < 1 else num_documents
    return wilson(p, effective, _t_quantile(num_documents))


def lifts(counts: PairCounts) -> list[Estimate]:
    """Returns the lift of each pair, with an interval over documents.

    The interval is linearised on the logarithm, lift exp(± t se / lift). A pair whose latents are never active together
    has lift 0; its upper limit is the lower one of those of P(j | i) / P(j) and P(i | j) / P(i).
    """
    lift_by_pair = joint_stats(counts).lift
    residuals = _lift_residuals(counts, lift_by_pair)
    num_tokens = counts.tokens.sum()
    estimates = []
    for pair, lift in enumerate(lift_by_pair.tolist()):
        i, j, both = counts.i[:, pair], counts.j[:, pair], counts.both[:, pair]
        if math.isnan(lift):
            estimates.append(Estimate(None, reason=NEVER_ACTIVE))
        elif lift == 0:
            ends = ((conditional(both, i).high, j), (conditional(both, j).high, i))
            highs = [high * num_tokens / float(count.sum()) for high, count in ends if high is not None]
            estimates.append(Estimate(0.0, 0.0, min(highs)) if highs else Estimate(0.0))
        else:
            num_documents = int((i + j > 0).sum())
            factor = (
                math.exp(_t_quantile(num_documents) * _se(residuals[:, pair]) / lift) if num_documents > 1 else None
            )
            estimates.append(Estimate(lift, lift / factor, lift * factor) if factor else Estimate(lift))
    return estimates


def with_document_interval(value: float, residuals: np.ndarray) -> Estimate:
    """Returns a value with its linearised interval; `residuals` (num_documents,), one per document, sum to 0."""
    if len(residuals) < 2:
        return Estimate(value)
    half = _t_quantile(len(residuals)) * _se(residuals)
    return Estimate(value, value - half, value + half)


def _lift_residuals(counts: PairCounts, lift: np.ndarray) -> np.ndarray:
    """Returns the derivative of N both / (i j) by document, (num_documents, num_pairs)."""
    i, j, num_tokens = counts.i.sum(0), counts.j.sum(0), counts.tokens.sum()
    with np.errstate(invalid="ignore", divide="ignore"):
        share = (counts.tokens / num_tokens)[:, None] - counts.i / i - counts.j / j
        return counts.both * (num_tokens / (i * j)) + lift * share


def _se(residuals: np.ndarray) -> float:
    """Returns the standard error of a sum over documents."""
    return math.sqrt(len(residuals) / (len(residuals) - 1) * float(residuals @ residuals))


@cache
def _t_quantile(num_documents: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, num_documents - 1))
