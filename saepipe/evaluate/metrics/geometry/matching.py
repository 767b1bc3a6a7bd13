"""Matching of the latents of two SAEs by the cosine of their decoder rows, one to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from saepipe.evaluate.stats.decoder_cosines import directions
from saepipe.evaluate.stats.one_to_one import Cosines, Nearest, assign

MAX_ASSIGNED = 8192
"""Largest d_sae for which the matching maximises the sum of cosines; wider SAEs match by mutual nearest neighbours."""
_TIE_BONUS = 1e-6
"""Cosines closer than this are equal up to rounding; in a tie, latents with the same index match."""

Method = Literal["assignment", "mutual nearest neighbours"]


@dataclass(frozen=True)
class Match:
    """Matched latents of our SAE and theirs, one to one, in the order of ours."""

    ours: np.ndarray
    """(num_matched,) int64"""
    theirs: np.ndarray
    """(num_matched,) int64"""
    cosine: np.ndarray
    """(num_matched,) float64"""
    method: Method

    def select(self, mask: np.ndarray) -> Match:
        """Returns the matches where `mask` (num_matched,) is True."""
        return Match(self.ours[mask], self.theirs[mask], self.cosine[mask], self.method)


def match(ours: Tensor, theirs: Tensor) -> Match:
    """Matches the decoder rows (d_sae, d_in) of two SAEs. Rows of zeros get no match."""
    (a, index_a), (b, index_b) = directions(ours), directions(theirs)
    scores = _TieBroken(a, b, index_a, index_b)
    rows, columns = torch.arange(len(a)), torch.arange(len(b))
    method: Method = "assignment" if max(len(ours), len(theirs)) <= MAX_ASSIGNED else "mutual nearest neighbours"
    if method == "assignment":
        row, column, _ = assign(scores.at(rows, columns))
    else:
        row, column = Nearest.of(scores, rows, columns).mutual()
    i, j = index_a[row], index_b[column]
    cosine = cosine_similarity(ours[i].double(), theirs[j].double(), eps=0.0).clamp(-1, 1)
    return Match(i.cpu().numpy(), j.cpu().numpy(), cosine.cpu().numpy(), method)


@dataclass(frozen=True)
class _TieBroken(Cosines):
    """Cosines, with a bonus for latents of the same index."""

    index_a: Tensor
    """(num_a,) int64"""
    index_b: Tensor
    """(num_b,) int64"""

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        scores = super().at(rows, columns)
        scores[self.index_a[rows].unsqueeze(1) == self.index_b[columns]] += _TIE_BONUS
        return scores
