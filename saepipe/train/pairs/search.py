"""The pairs with the largest products, found tile by tile: no more than 16 MB of products at once, and no gradient.

Rows of W_dec have unit norm, so their products are cosines; products of rows of acts.T are co-activations.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.train.pairs.keys import each_once, keys_of, no_pair

ROWS, COLUMNS = 1024, 4096  # of a tile, where each row keeps its own best
SIDE = 2048  # of a tile, where the best of all are kept


@dataclass(frozen=True)
class Ranked:
    """Pairs in descending order of a score."""

    scores: Tensor  # (num_pairs,); -inf where there is no pair
    keys: Tensor  # (num_pairs,) int64

    def merged(self, scores: Tensor, keys: Tensor) -> Ranked:
        """The best of both; as many as before."""
        best = torch.cat([self.scores, scores]).topk(len(self.scores))
        return Ranked(best.values, torch.cat([self.keys, keys])[best.indices])


def nobody(num_pairs: int, rows: Tensor) -> Ranked:
    """No pair yet."""
    scores = rows.new_full((num_pairs,), float("-inf"))
    return Ranked(scores, torch.full_like(scores, no_pair(len(rows)), dtype=torch.int64))


def nearest(rows: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The `num` largest products of each row with another, and with which: (d_sae, num) each, in descending order."""
    rows = rows.detach()
    num = min(num, len(rows) - 1)
    found = [_nearest_of(start, rows, num) for start in range(0, len(rows), ROWS)]
    return torch.cat([values for values, _ in found]), torch.cat([indices for _, indices in found])


def _nearest_of(start: int, rows: Tensor, num: int) -> tuple[Tensor, Tensor]:
    block = rows[start : start + ROWS]
    values, indices = [], []
    for column in range(0, len(rows), COLUMNS):
        tile = without_itself(block @ rows[column : column + COLUMNS].T, column - start)
        best = tile.topk(min(num, tile.shape[1]), dim=1)
        values.append(best.values)
        indices.append(best.indices + column)
    best = torch.cat(values, 1).topk(num, dim=1)
    return best.values, torch.cat(indices, 1).gather(1, best.indices)


def without_itself(tile: Tensor, offset: int) -> Tensor:
    """The tile with -inf where a row meets itself: in column number `row - offset`. Most tiles have no such place."""
    height, width = tile.shape
    if offset >= height or -offset >= width:
        return tile
    place = torch.ones(height, width, dtype=torch.bool, device=tile.device).tril(-offset).triu(-offset)
    return tile.masked_fill(place, float("-inf"))


def neighbour_keys(W_dec: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    """Each latent with its nearest `neighbours`, each pair once: the largest cosines (d_sae,), and keys, ascending."""
    cosine, others = nearest(W_dec, neighbours)
    latents = torch.arange(len(W_dec), device=W_dec.device).unsqueeze(1).expand_as(others)
    return cosine[:, 0], each_once(keys_of(latents, others, len(W_dec)).flatten(), len(W_dec))


def top_pairs(rows: Tensor, num_pairs: int) -> Ranked:
    """The `num_pairs` largest products of two different rows, exactly, each pair once."""
    rows = rows.detach()
    best = nobody(num_pairs, rows)
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
