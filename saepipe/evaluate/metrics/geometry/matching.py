"""Matching of the latents of two SAEs by the cosine of their decoder rows, one to one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn.functional import cosine_similarity

from saepipe.evaluate.stats.decoder_cosines import directions

MAX_ASSIGNED = 8192
"""Largest d_sae for which the matching maximises the sum of cosines; wider SAEs match by mutual nearest neighbours."""
_TILE = 2048
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
    method: Method = "assignment" if max(len(ours), len(theirs)) <= MAX_ASSIGNED else "mutual nearest neighbours"
    (a, index_a), (b, index_b) = directions(ours), directions(theirs)
    if method == "assignment":
        scores = _scores(a, index_a, b, index_b).double().cpu().numpy()
        row, column = (torch.from_numpy(index).to(a.device) for index in linear_sum_assignment(scores, maximize=True))
    else:
        row, column = _mutual(a, index_a, b, index_b)
    i, j = index_a[row], index_b[column]
    cosine = cosine_similarity(ours[i].double(), theirs[j].double(), eps=0.0).clamp(-1, 1)
    return Match(i.cpu().numpy(), j.cpu().numpy(), cosine.cpu().numpy(), method)


def _scores(a: Tensor, index_a: Tensor, b: Tensor, index_b: Tensor) -> Tensor:
    """Returns cosines (num_a, num_b), with the bonus that breaks ties."""
    scores = a @ b.T
    scores[index_a.unsqueeze(1) == index_b] += _TIE_BONUS
    return scores


def _mutual(a: Tensor, index_a: Tensor, b: Tensor, index_b: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the pairs in which each row is the nearest of the other, searched tile by tile."""
    best_a, best_b = (_RowMaxima(len(rows), a) for rows in (a, b))
    for start in range(0, len(a), _TILE):
        for column in range(0, len(b), _TILE):
            rows_a, rows_b = slice(start, start + _TILE), slice(column, column + _TILE)
            tile = _scores(a[rows_a], index_a[rows_a], b[rows_b], index_b[rows_b])
            best_a.update(rows_a, *tile.max(1), column)
            best_b.update(rows_b, *tile.max(0), start)
    row = torch.arange(len(a), device=a.device)
    row = row[best_b.index[best_a.index] == row] if len(b) else row[:0]
    return row, best_a.index[row]


class _RowMaxima:
    """Running maximum of each row's scores, and where it is."""

    def __init__(self, num: int, like: Tensor) -> None:
        self.score = like.new_full((num,), -torch.inf)
        self.index = torch.zeros(num, dtype=torch.int64, device=like.device)

    def update(self, rows: slice, score: Tensor, index: Tensor, offset: int) -> None:
        better = score > self.score[rows]
        self.score[rows] = score.where(better, self.score[rows])
        self.index[rows] = (index + offset).where(better, self.index[rows])
