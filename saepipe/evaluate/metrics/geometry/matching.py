"""Which latent of one SAE is which of another: matched by the cosine of their decoder rows, each at most once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import cosine_similarity

from saepipe.evaluate.stats.decoder_cosines import directions

ASSIGNED = 8192
"""Up to this d_sae of both, the matching is the one with the largest sum of cosines; above it, of mutual neighbours."""
_SIDE = 2048
_TIE = 1e-6
"""Cosines closer than this are equal up to rounding; then the latent of the same number goes first."""

Method = Literal["assignment", "mutual nearest neighbours"]


@dataclass(frozen=True)
class Match:
    """Latents of ours and theirs that belong together, one to one, in the order of ours."""

    ours: np.ndarray
    """(num_matched,) int64"""
    theirs: np.ndarray
    """(num_matched,) int64"""
    cosine: np.ndarray
    """(num_matched,) float64"""
    method: Method

    def among(self, chosen: np.ndarray) -> Match:
        """Those marked in `chosen` (num_matched,) bool."""
        return Match(self.ours[chosen], self.theirs[chosen], self.cosine[chosen], self.method)


def match(ours: Tensor, theirs: Tensor) -> Match:
    """From decoder rows (d_sae, d_in) of both; rows of zeros are matched with nothing."""
    method: Method = "assignment" if max(len(ours), len(theirs)) <= ASSIGNED else "mutual nearest neighbours"
    (a, index_a), (b, index_b) = directions(ours), directions(theirs)
    if method == "assignment":
        scores = _scores(a, index_a, b, index_b).double().cpu().numpy()
        row, column = (torch.from_numpy(side).to(a.device) for side in linear_sum_assignment(scores, maximize=True))
    else:
        row, column = _mutual(a, index_a, b, index_b)
    i, j = index_a[row], index_b[column]
    cosine = cosine_similarity(ours[i].double(), theirs[j].double(), eps=0.0).clamp(-1, 1)
    return Match(i.cpu().numpy(), j.cpu().numpy(), cosine.cpu().numpy(), method)


def _scores(a: Tensor, index_a: Tensor, b: Tensor, index_b: Tensor) -> Tensor:
    """(num_a, num_b): cosines, with the tie-break."""
    scores = a @ b.T
    scores[index_a.unsqueeze(1) == index_b] += _TIE
    return scores


def _mutual(a: Tensor, index_a: Tensor, b: Tensor, index_b: Tensor) -> tuple[Tensor, Tensor]:
    """The pairs in which each is the other's nearest, tile by tile."""
    best_a, best_b = (_Best(len(side), a) for side in (a, b))
    for start in range(0, len(a), _SIDE):
        for column in range(0, len(b), _SIDE):
            here, there = slice(start, start + _SIDE), slice(column, column + _SIDE)
            tile = _scores(a[here], index_a[here], b[there], index_b[there])
            best_a.update(here, *tile.max(1), column)
            best_b.update(there, *tile.max(0), start)
    row = torch.arange(len(a), device=a.device)
    row = row[best_b.place[best_a.place] == row] if len(b) else row[:0]
    return row, best_a.place[row]


class _Best:
    """The largest score seen by each row, and where."""

    def __init__(self, num: int, like: Tensor) -> None:
        self.score = like.new_full((num,), -torch.inf)
        self.place = torch.zeros(num, dtype=torch.int64, device=like.device)

    def update(self, rows: slice, score: Tensor, place: Tensor, offset: int) -> None:
        better = score > self.score[rows]
        self.score[rows] = score.where(better, self.score[rows])
        self.place[rows] = (place + offset).where(better, self.place[rows])
