"""All cosines between the decoder rows of one SAE, tile by tile: no d_sae x d_sae array is ever built."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.evaluate.stats.histograms import COSINE
from saepipe.train.pairs import search
from saepipe.train.pairs.keys import keys_of, pairs_at

_SIDE = 2048  # of a tile: 16 MB


_TILES = 8  # held while one is counted and ranked


def similarity_bytes(d_in: int, d_sae: int) -> int:
    """Returns the bytes that `similarity` holds beside the decoder."""
    return 4 * (_TILES * min(_SIDE, d_sae) ** 2 + 2 * d_in * d_sae)


@dataclass(frozen=True)
class SimilarPairs:
    """Pairs of latents, the most similar first. A zero vector has no direction and is in no pair."""

    i: Tensor
    """(num_pairs,) int64, the smaller index"""
    j: Tensor
    """(num_pairs,) int64"""
    cosine: Tensor
    """(num_pairs,) float32"""


@dataclass(frozen=True)
class Similarity:
    """Summary of the cosines between different decoder rows, each pair counted once."""

    max_cosine: Tensor
    """(d_sae,) float32: cosine of each row with its nearest row; NaN if it or all other rows are zero"""
    nearest: Tensor
    """(d_sae,) int64: index of the nearest row; the row's own if it has none"""
    counts: Tensor
    """(num_bins,) int64: pairs by cosine, in the bins of `histograms.COSINE`"""
    pairs: SimilarPairs
    """the `num_pairs` most similar"""


def similarity(W_dec: Tensor, num_pairs: int) -> Similarity:
    """Returns the similarity of decoder rows (d_sae, d_in), computed in float32."""
    rows, index = directions(W_dec)
    num = len(rows)
    largest = rows.new_full((num,), -torch.inf)
    nearest_row = torch.arange(num, device=rows.device)
    counts = torch.zeros(len(COSINE) - 1, dtype=torch.int64, device=rows.device)
    best = search.empty_ranking(min(num_pairs, num * (num - 1) // 2), rows)
    for start, column, tile in _tiles(rows):
        counts += torch.histc(tile, len(counts), min=COSINE[0], max=COSINE[-1]).long()  # -inf is in no bin
        for dim, first, offset in ((1, start, column), (0, column, start)):
            value, position = tile.max(dim)
            span = slice(first, first + len(value))
            better = value > largest[span]
            largest[span] = value.where(better, largest[span])
            nearest_row[span] = (position + offset).where(better, nearest_row[span])
        best = _merged(best, tile, start, column, num)
    max_cosine = rows.new_full((len(W_dec),), torch.nan)
    max_cosine[index] = largest.masked_fill(largest.isinf(), torch.nan)
    nearest = torch.arange(len(W_dec), device=rows.device)
    nearest[index] = index[nearest_row]
    pairs = pairs_at(best.keys, num)
    return Similarity(max_cosine, nearest, counts, SimilarPairs(index[pairs.i], index[pairs.j], best.scores))


def mean_absolute_cosine(W_dec: Tensor) -> float:
    """Returns the mean |cosine| of the pairs of decoder rows (d_sae, d_in), c_dec of arXiv 2508.16560; NaN if none."""
    rows, _ = directions(W_dec)
    total = rows.new_zeros((), dtype=torch.float64)
    for _, _, tile in _tiles(rows):
        total += tile.abs().masked_fill_(tile.isinf(), 0).sum(dtype=torch.float64)
    num_pairs = len(rows) * (len(rows) - 1) // 2
    return float(total) / num_pairs if num_pairs else math.nan


def neighbours(W_dec: Tensor, num: int) -> dict[str, np.ndarray]:
    """Returns indices and cosines (d_sae, num), nearest first; -1 and NaN for a zero row, or if there are too few."""
    rows, index = directions(W_dec)
    neighbour = torch.full((len(W_dec), num), -1, device=W_dec.device)
    cosine = torch.full((len(W_dec), num), torch.nan, device=W_dec.device)
    if len(rows) > 1:
        values, nearest_rows = search.nearest(rows, num)  # fewer than num if there are fewer other rows
        neighbour[index, : nearest_rows.shape[1]] = index[nearest_rows]
        cosine[index, : nearest_rows.shape[1]] = values.clamp(-1, 1)
    return {"neighbours": neighbour.int().cpu().numpy(), "neighbour_cosine": cosine.cpu().numpy()}


def directions(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the nonzero rows scaled to unit norm, (num, d_in) float32, and their indices (num,) int64."""
    rows = rows.detach().float()
    index = rows.any(dim=1).nonzero().flatten()
    return normalize(rows[index], dim=1, eps=torch.finfo(rows.dtype).tiny), index


def _tiles(rows: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Yields first row, first column and cosines of each tile that reaches above the diagonal; -inf on and below it."""
    for start in range(0, len(rows), _SIDE):
        for column in range(start, len(rows), _SIDE):
            tile = (rows[start : start + _SIDE] @ rows[column : column + _SIDE].T).clamp(-1, 1)
            if column == start:
                tile.masked_fill_(torch.ones_like(tile, dtype=torch.bool).tril(), -torch.inf)
            yield start, column, tile


def _merged(best: search.Ranked, tile: Tensor, start: int, column: int, num: int) -> search.Ranked:
    top = tile.flatten().topk(min(len(best.scores), tile.numel()))
    i, j = top.indices // tile.shape[1], top.indices % tile.shape[1]
    return best.merged(top.values, keys_of(start + i, column + j, num))
