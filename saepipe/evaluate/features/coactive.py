"""Latents that are active on the same tokens, by Jaccard index, from the pairs that occur alone.

A token with n active latents has n^2 pairs. If all tokens together have more than `num_pairs`, a sample is counted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.sparse import csr_array

from saepipe.evaluate.features.token_sample import TokenSample

PAIRS_AT_ONCE = 2**22
"""Pairs of latents that are counted at a time, unless one latent has more."""


class CoactivationCounter:
    """Keeps the active latents of as many tokens as have no more than `num_pairs` pairs."""

    def __init__(self, d_sae: int, num_pairs: int) -> None:
        self._d_sae = d_sae
        self.sample = TokenSample(num_pairs, np.square)

    def nearest(self, num: int) -> dict[str, np.ndarray]:
        """Returns indices and scores of the latents with the largest Jaccard index, (d_sae, num); -1 and NaN for 0.

        Jaccard index: tokens on which both latents are active, over tokens on which either is. Of equal ones the
        latent that comes first is nearer.
        """
        acts = self._matrix()
        columns, num_tokens = acts.T.tocsr(), acts.sum(axis=0)
        index = np.full((self._d_sae, num), -1, np.int32)
        score = np.full((self._d_sae, num), np.nan, np.float32)
        for latents in _stretches(columns @ acts.sum(axis=1, dtype=np.int64)):
            both = (columns[latents] @ acts).tocoo()
            latent, other = both.coords[0] + latents.start, both.coords[1]
            jaccard = both.data / (num_tokens[latent] + num_tokens[other] - both.data)
            order = np.lexsort((other, -jaccard, latent))
            order = order[latent[order] != other[order]]
            latent = latent[order]
            place = np.arange(len(order)) - np.searchsorted(latent, latent)
            near = place < num
            index[latent[near], place[near]] = other[order][near]
            score[latent[near], place[near]] = jaccard[order][near]
        return {"coactive": index, "coactive_score": score}

    def _matrix(self) -> csr_array:
        """Returns (num_tokens, d_sae): 1 if the latent is active on the token."""
        tokens = self.sample.tokens()
        starts = np.concatenate([[0], tokens.num.cumsum()])
        ones = np.ones(len(tokens.latents), np.int32)
        return csr_array((ones, tokens.latents, starts), shape=(len(tokens.num), self._d_sae))


def _stretches(num_pairs: np.ndarray) -> Iterator[slice]:
    """Yields neighbouring latents that together have at most PAIRS_AT_ONCE of num_pairs (d_sae,), or one with more."""
    ends, first = num_pairs.cumsum(), 0
    while first < len(ends):
        before = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, before + PAIRS_AT_ONCE, side="right")))
        yield slice(first, last)
        first = last
