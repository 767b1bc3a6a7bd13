"""What is different from the baseline: latents matched by decoder cosine, then each compared with its own match.

A latent that never fires is matched with nothing in the figures: two runs of one seed keep the same random rows for
the latents that neither ever used, and would seem to agree.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from saepipe.evaluate.metrics.geometry.joint_firing import PairCounts
from saepipe.evaluate.metrics.geometry.latent_pairs import together
from saepipe.evaluate.metrics.geometry.matching import Match, match
from saepipe.evaluate.metrics.geometry.portrait import Portrait
from saepipe.evaluate.metrics.geometry.weights import Weights
from saepipe.evaluate.stats.decoder_cosines import SimilarPairs
from saepipe.evaluate.stats.intervals import Estimate, ratio

SAME, NEARLY_IDENTICAL = 0.7, 0.9
"""Cosines above which a match counts as the same latent; changes are over the first."""

_NO_MATCH = f"no living latent has a match above {SAME} in the baseline"
_NO_PAIR = "none of the baseline's most similar pairs is found here with latents that fire in both"


@dataclass(frozen=True)
class Followed:
    """The baseline's most similar pairs that are found again: both latents have a match above `SAME`."""

    match: Match
    places: np.ndarray
    """(num_followed,) int64: which of the baseline's pairs"""
    pairs: SimilarPairs
    """in this SAE, in the order of `places`; i is the match of the baseline's i, whichever is smaller"""
    cosine_before: np.ndarray
    """(num_followed,): the cosine in the baseline"""


def follow(ours: Weights, baseline: Weights) -> Followed:
    """Matches latents, and finds the baseline's pairs in ours."""
    found = match(ours.W_dec, baseline.W_dec)
    partner = np.full(len(baseline.W_dec), len(ours.W_dec))  # one beyond the last: none
    same = found.cosine > SAME
    partner[found.theirs[same]] = found.ours[same]
    ends = [partner[end.cpu().numpy()] for end in (baseline.pairs.i, baseline.pairs.j)]
    places = ((ends[0] < len(ours.W_dec)) & (ends[1] < len(ours.W_dec))).nonzero()[0]
    i, j = (torch.from_numpy(end[places]).to(ours.W_dec.device) for end in ends)
    before = _cosine(baseline.W_dec, baseline.pairs.i, baseline.pairs.j).cpu().numpy()[places]
    return Followed(found, places, SimilarPairs(i, j, _cosine(ours.W_dec, i, j)), before)


def changes(ours: Portrait, baseline: Portrait, followed: Followed, counts: PairCounts) -> dict[str, Estimate]:
    """By key, less the baseline's; `counts` are those of `followed.pairs`.

    Intervals are over matched latents, or pairs: how the mean would move with other latents of these two SAEs.
    """
    found = followed.match
    living = found.among(ours.alive[found.ours] & baseline.alive[found.theirs])
    same = living.among(living.cosine > SAME)
    columns = {
        "change_log10_density": (ours.log10_density, baseline.log10_density),
        "change_max_decoder_cosine": (ours.weights.max_cosine, baseline.weights.max_cosine),
        "change_encoder_decoder_cosine": (ours.weights.encoder_decoder, baseline.weights.encoder_decoder),
        "change_decoder_norm": (ours.weights.norm, baseline.weights.norm),
    }
    return {
        "mean_matched_cosine": _mean(living.cosine, "no living latent has a match in the baseline"),
        **_shares("frac_matched", living, ours),
        **_shares("frac_baseline_matched", living, baseline),
        **{key: _mean(now[same.ours] - before[same.theirs], _NO_MATCH) for key, (now, before) in columns.items()},
        **_pair_changes(followed, counts, baseline.pairs),
    }


def _shares(name: str, living: Match, portrait: Portrait) -> dict[str, Estimate]:
    """Of the living latents of one side, those that have a match; no interval, since all of them were looked at."""
    num = int(portrait.alive.sum())
    return {
        f"{name}_over_{100 * limit:.0f}": Estimate(float((living.cosine > limit).sum()) / num)
        if num
        else Estimate(None, reason="no latent was active")
        for limit in (SAME, NEARLY_IDENTICAL)
    }


def _pair_changes(followed: Followed, counts: PairCounts, before: PairCounts) -> dict[str, Estimate]:
    """Parent and child are the baseline's."""
    now, then = together(counts), together(before)
    parent, places = then.i_is_parent[followed.places], followed.places
    conditional = np.where(parent, now.i_given_j, now.j_given_i) - then.conditional[places]
    cosine = followed.pairs.cosine.cpu().numpy() - followed.cosine_before
    fires = ~np.isnan(conditional)
    num_pairs = before.i.shape[1]
    return {
        "frac_baseline_pairs_found": Estimate(len(places) / num_pairs)
        if num_pairs
        else Estimate(None, reason=_NO_PAIR),
        "change_pair_cosine": _mean(cosine[fires], _NO_PAIR),
        "change_pair_conditional": _mean(conditional[fires], _NO_PAIR),
        "change_pair_lift": _mean((now.lift - then.lift[places])[fires], _NO_PAIR),
    }


def _mean(values: np.ndarray, undefined: str) -> Estimate:
    """Of those that are numbers, with Student's t interval."""
    known = values[~np.isnan(values)]
    return ratio(known, np.ones_like(known), undefined)


def _cosine(W_dec: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """(num_pairs,) float64"""
    return cosine_similarity(W_dec[i].double(), W_dec[j].double(), eps=0.0)
