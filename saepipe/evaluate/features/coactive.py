"""Latents that are active on the same tokens, by Jaccard index, without an array of d_sae x d_sae.

A token with n active latents has n^2 pairs. If all tokens together have more than `num_pairs`, a sample is counted.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array

from saepipe.evaluate.features.token_sample import TokenSample

COUNTS_AT_ONCE = 2**24
"""Pairs of latents whose counts are held at a time."""


class CoactivationCounter:
    """Keeps the active latents of as many tokens as have no more than `num_pairs` pairs."""

    def __init__(self, d_sae: int, num_pairs: int) -> None:
        self._d_sae = d_sae
        self.sample = TokenSample(num_pairs, np.square)

    def nearest(self, num: int) -> dict[str, np.ndarray]:
        """Returns indices and scores of the latents with the largest Jaccard index, (d_sae, num); -1 and NaN for 0.

        Jaccard index: tokens on which both latents are active, over tokens on which either is.
        """
        acts = self._matrix()
        count = torch.from_numpy(np.asarray(acts.sum(axis=0)))
        columns = acts.T.tocsr()
        size = max(1, COUNTS_AT_ONCE // self._d_sae)
        blocks = [self._block(acts, columns, count, start, size, num) for start in range(0, self._d_sae, size)]
        index, score = (torch.cat(parts).numpy() for parts in zip(*blocks, strict=True))
        return {"coactive": index, "coactive_score": score}

    def _block(
        self, acts: csr_array, columns: csr_array, count: torch.Tensor, start: int, size: int, num: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        both = torch.from_numpy((columns[start : start + size] @ acts).toarray())
        either = count[start : start + size].unsqueeze(1) + count - both
        jaccard = both / either.clamp_min(1)
        jaccard[torch.arange(len(jaccard)), start + torch.arange(len(jaccard))] = 0
        return best_of(jaccard.masked_fill(jaccard == 0, torch.nan), num)

    def _matrix(self) -> csr_array:
        """Returns (num_tokens, d_sae): 1 if the latent is active on the token."""
        tokens = self.sample.tokens()
        starts = np.concatenate([[0], tokens.num.cumsum()])
        ones = np.ones(len(tokens.latents), np.int32)
        return csr_array((ones, tokens.latents, starts), shape=(len(tokens.num), self._d_sae))


def best_of(scores: torch.Tensor, num: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns indices int32 and scores of each row's `num` largest, (num_rows, num); -1 and NaN if NaN or too few."""
    best = scores.nan_to_num(nan=-torch.inf).topk(min(num, scores.shape[1]), dim=1)
    none = best.values.isinf()
    index = best.indices.int().masked_fill(none, -1)
    score = best.values.float().masked_fill(none, torch.nan)
    short = (0, num - index.shape[1])
    return torch.nn.functional.pad(index, short, value=-1), torch.nn.functional.pad(score, short, value=torch.nan)
