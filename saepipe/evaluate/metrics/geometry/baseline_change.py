"""Changes from the baseline: latents are matched by decoder cosine, then each is compared with its match.

A latent that is never active counts as unmatched: two runs with the same seed keep the same random rows for latents
that neither ever used, and would appear to agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from saepipe.evaluate.metrics.geometry.joint_firing import PairCounts
from saepipe.evaluate.metrics.geometry.latent_pairs import joint_stats
from saepipe.evaluate.metrics.geometry.matching import Match, match
from saepipe.evaluate.metrics.geometry.portrait import Portrait
from saepipe.evaluate.metrics.geometry.weights import Weights
from saepipe.evaluate.stats.decoder_cosines import SimilarPairs
from saepipe.evaluate.stats.intervals import Estimate, ratio

SAME, NEARLY_IDENTICAL = 0.7, 0.9
"""Cosines above which matched latents count as the same latent; changes are over the matches above `SAME`."""

_NO_MATCH = f"no alive latent has a match above {SAME} in the baseline"
_NO_PAIR = "none of the baseline's most similar pairs was matched to a pair with all latents active"


@dataclass(frozen=True)
class TrackedPairs:
    """The baseline's most similar pairs of which both latents have a match above `SAME` in our SAE."""

    match: Match
    index: np.ndarray
    """(num_tracked,) int64: indices of the pairs among the baseline's"""
    pairs: SimilarPairs
    """the pairs in our SAE, in the order of `index`; i is the match of the baseline's i, even if larger than j"""
    baseline_cosine: np.ndarray
    """(num_tracked,): cosines of the pairs in the baseline"""


def track_pairs(ours: Weights, baseline: Weights) -> TrackedPairs:
    """Matches latents and finds the baseline's pairs in our SAE."""
    matches = match(ours.W_dec, baseline.W_dec)
    partner = np.full(len(baseline.W_dec), len(ours.W_dec))  # one beyond the last index means no partner
    same = matches.cosine > SAME
    partner[matches.theirs[same]] = matches.ours[same]
    ends = [partner[end.cpu().numpy()] for end in (baseline.pairs.i, baseline.pairs.j)]
    index = ((ends[0] < len(ours.W_dec)) & (ends[1] < len(ours.W_dec))).nonzero()[0]
    i, j = (torch.from_numpy(end[index]).to(ours.W_dec.device) for end in ends)
    baseline_cosine = _cosine(baseline.W_dec, baseline.pairs.i, baseline.pairs.j).cpu().numpy()[index]
    return TrackedPairs(matches, index, SimilarPairs(i, j, _cosine(ours.W_dec, i, j)), baseline_cosine)


def changes(ours: Portrait, baseline: Portrait, tracked: TrackedPairs, counts: PairCounts) -> dict[str, Estimate]:
    """Returns differences from the baseline by key; `counts` are those of `tracked.pairs`.

    Intervals are over matched latents, or pairs: how the mean would move with other latents of these two SAEs.
    """
    matches = tracked.match
    alive = matches.select(ours.alive[matches.ours] & baseline.alive[matches.theirs])
    same = alive.select(alive.cosine > SAME)
    columns = {
        "change_log10_density": (ours.log10_density, baseline.log10_density),
        "change_max_decoder_cosine": (ours.weights.max_cosine, baseline.weights.max_cosine),
        "change_encoder_decoder_cosine": (ours.weights.encoder_decoder_cosine, baseline.weights.encoder_decoder_cosine),
        "change_decoder_norm": (ours.weights.norm, baseline.weights.norm),
    }
    return {
        "mean_matched_cosine": _mean(alive.cosine, "no alive latent has a match in the baseline"),
        **_matched_shares("frac_matched", alive, ours),
        **_matched_shares("frac_baseline_matched", alive, baseline),
        **{key: _mean(new[same.ours] - old[same.theirs], _NO_MATCH) for key, (new, old) in columns.items()},
        **_pair_changes(tracked, counts, baseline.pairs),
    }


def _matched_shares(name: str, alive: Match, portrait: Portrait) -> dict[str, Estimate]:
    """Returns the matched shares of one SAE's alive latents, without intervals, since they are not a sample."""
    num_alive = int(portrait.alive.sum())
    return {
        f"{name}_over_{100 * limit:.0f}": Estimate(float((alive.cosine > limit).sum()) / num_alive)
        if num_alive
        else Estimate(None, reason="no latent was active")
        for limit in (SAME, NEARLY_IDENTICAL)
    }


def _pair_changes(tracked: TrackedPairs, counts: PairCounts, baseline: PairCounts) -> dict[str, Estimate]:
    """Returns changes of the tracked pairs; parent and child are those of the baseline."""
    new, old, index = joint_stats(counts), joint_stats(baseline), tracked.index
    conditional = np.where(old.i_is_parent[index], new.i_given_j, new.j_given_i) - old.conditional[index]
    cosine = tracked.pairs.cosine.cpu().numpy() - tracked.baseline_cosine
    defined = ~np.isnan(conditional)
    num_pairs = baseline.i.shape[1]
    return {
        "frac_baseline_pairs_found": Estimate(len(index) / num_pairs) if num_pairs else Estimate(None, reason=_NO_PAIR),
        "change_pair_cosine": _mean(cosine[defined], _NO_PAIR),
        "change_pair_conditional": _mean(conditional[defined], _NO_PAIR),
        "change_pair_lift": _mean((new.lift - old.lift[index])[defined], _NO_PAIR),
    }


def _mean(values: np.ndarray, undefined: str) -> Estimate:
    """Returns the mean of the values that are not NaN, with Student's t interval."""
    defined = values[~np.isnan(values)]
    return ratio(defined, np.ones_like(defined), undefined)


def _cosine(W_dec: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """(num_pairs,) float64"""
    return cosine_similarity(W_dec[i].double(), W_dec[j].double(), eps=0.0)
