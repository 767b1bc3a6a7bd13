"""Searches for the pairs with the largest products, tile by tile: at most 16 MB of products at once, no gradient.

Rows of W_dec have unit norm, so their products are cosines; products of rows of acts.T are co-activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.train.pairs.keys import keys_of, no_pair, unique_keys

ROWS, COLUMNS = 1024, 4096  # size of a tile in which each row keeps its own best
SIDE = 2048  # side of a tile in which the best of all rows are kept


@dataclass(frozen=True)
class Ranked:
    """Pairs in descending order of a score."""

    scores: Tensor  # (num_pairs,); -inf in an unused slot
    keys: Tensor  # (num_pairs,) int64

    def merged(self, scores: Tensor, keys: Tensor) -> Ranked:
        """Returns the best of these pairs and the given ones; as many as before."""
        best = torch.cat([self.scores, scores]).topk(len(self.scores))
        return Ranked(best.values, torch.cat([self.keys, keys])[best.indices])


def empty_ranking(num_pairs: int, rows: Tensor) -> Ranked:
    """Returns a ranking with `num_pairs` unused slots."""
    scores = rows.new_full((num_pairs,), float("-inf"))
    return Ranked(scores, torch.full_like(scores, no_pair(len(rows)), dtype=torch.int64))


def nearest(rows: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Returns each row's `num` largest products with other rows, and their indices: (d_sae, num) each, descending."""
    rows = rows.detach()
    num = min(num, len(rows) - 1)
    blocks = [_nearest_of(start, rows, num) for start in range(0, len(rows), ROWS)]
    return torch.cat([values for values, _ in blocks]), torch.cat([indices for _, indices in blocks])


def _nearest_of(start: int, rows: Tensor, num: int) -> tuple[Tensor, Tensor]:
    block = rows[start : start + ROWS]
    values, indices = [], []
    for column in range(0, len(rows), COLUMNS):
        tile = mask_self_pairs(block @ rows[column : column + COLUMNS].T, column - start)
        best = tile.topk(min(num, tile.shape[1]), dim=1)
        values.append(best.values)
        indices.append(best.indices + column)
    best = torch.cat(values, 1).topk(num, dim=1)
    return best.values, torch.cat(indices, 1).gather(1, best.indices)


def mask_self_pairs(tile: Tensor, offset: int) -> Tensor:
    """Returns the tile with -inf where a row meets itself, in column `row - offset`. Most tiles have no such entry."""
    height, width = tile.shape
    if offset >= height or -offset >= width:
        return tile
    diagonal = torch.ones(height, width, dtype=torch.bool, device=tile.device).tril(-offset).triu(-offset)
    return tile.masked_fill(diagonal, float("-inf"))


def neighbour_keys(W_dec: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Pairs each latent with its nearest `neighbours`; returns the largest cosines (d_sae,) and the keys, each once."""
    cosine, indices = nearest(W_dec, neighbours)
    latents = torch.arange(len(W_dec), device=W_dec.device).unsqueeze(1).expand_as(indices)
    return cosine[:, 0], unique_keys(keys_of(latents, indices, len(W_dec)).flatten(), len(W_dec))


def top_pairs(rows: Tensor, num_pairs: int) -> Ranked:
    """Returns the `num_pairs` largest products of two different rows, exactly, each pair once."""
    rows = rows.detach()
    best = empty_ranking(num_pairs, rows)
    for start in range(0, len(rows), SIDE):
        for column in range(start, len(rows), SIDE):
            best = best.merged(*_best_of_tile(rows, start, column, num_pairs))
    return best


def _best_of_tile(rows: Tensor, start: int, column: int, num_pairs: int) -> tuple[Tensor, Tensor]:
    tile = rows[start : start + SIDE] @ rows[column : column + SIDE].T
    height, width = tile.shape
    if start == column:
        below = torch.ones(height, width, dtype=torch.bool, device=rows.device).tril()
        tile = tile.masked_fill(below, float("-inf"))
    best = tile.flatten().topk(min(num_pairs, height * width))
    keys = keys_of(start + best.indices // width, column + best.indices % width, len(rows))
    return best.values, keys.masked_fill(best.values == float("-inf"), no_pair(len(rows)))
