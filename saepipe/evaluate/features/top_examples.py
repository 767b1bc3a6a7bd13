"""The tokens of each latent with the largest scores, kept while the stream goes by, each with its window.

With the activation as the score, and no more than one token a context, they are the top examples. With a random
number that belongs to the token, they are a uniform sample of the tokens on which the latent is active.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saepipe.evaluate.features.active import Active


class Kept:
    """The best `num` of each latent. Of equal scores, the earlier token stays."""

    def __init__(self, d_sae: int, num: int, window: int, device: torch.device) -> None:
        self.score = torch.full((d_sae, num), -torch.inf, dtype=torch.float64, device=device)  # -inf: none yet
        self.place = torch.full((d_sae, num), -1, device=device)  # context * context_size + position
        self.act = torch.zeros(d_sae, num, device=device)
        self.windows = torch.zeros(d_sae, num, window, device=device)

    def add(self, found: Active, score: Tensor, *, once_a_context: bool) -> None:
        """Offers all entries of a chunk, (num_entries,) scores. Chunks come in the order of their contexts."""
        entries = (score > self.score.amin(dim=1)[found.latent]).nonzero().flatten()
        if not len(entries):
            return
        order = score[entries].sort(descending=True, stable=True).indices
        entries = entries[order[found.latent[entries][order].sort(stable=True).indices]]  # by latent, best first
        if once_a_context:
            entries = _best_of_contexts(found, entries)
        latents, candidates = _by_latent(found.latent[entries], entries, self.score.shape[1])
        self._merge(found, score, latents, candidates)

    def _merge(self, found: Active, score: Tensor, latents: Tensor, candidates: Tensor) -> None:
        """Candidates (num_latents, num) are entries, -1 for none; what comes in takes the slots of what goes."""
        num = self.score.shape[1]
        offered = score[candidates].masked_fill(candidates < 0, -torch.inf).double()
        scores = torch.cat([self.score[latents], offered], dim=1)
        both = torch.cat([self.place[latents], found.tokens.place[found.row[candidates]]], dim=1)
        order = both.sort(dim=1, stable=True).indices
        order = order.gather(1, scores.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
        stays = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[:, :num], True)
        line, slot = (~stays[:, :num]).nonzero(as_tuple=True)
        entries = candidates[stays[:, num:]]  # as many of each latent as have gone, and in the same order of latents
        here = (latents[line], slot)
        self.score[here] = score[entries].double()
        self.place[here] = found.tokens.place[found.row[entries]]
        self.act[here] = found.act[entries]
        self.windows[here] = found.windows(entries, self.windows.shape[2])

    def in_order(self, *, strongest_first: bool) -> tuple[np.ndarray, np.ndarray]:
        """Places (d_sae, num) int64 and windows (d_sae, num, window), by activation; place -1 for none, at the end."""
        order = self.place.sort(dim=1).indices
        act = -self.act if strongest_first else self.act
        act = act.masked_fill(self.place < 0, torch.inf).gather(1, order)
        order = order.gather(1, act.sort(dim=1, stable=True).indices)
        windows = self.windows[torch.arange(len(order), device=order.device).unsqueeze(1), order]
        return self.place.gather(1, order).cpu().numpy(), windows.cpu().numpy()


def _best_of_contexts(found: Active, entries: Tensor) -> Tensor:
    """Of entries (num,), by latent and best first, the first of each latent in each context, in the same order."""
    context = found.tokens.place[found.row[entries]] // found.tokens.context_size
    context = context - context.min()
    key = found.latent[entries] * (context.max() + 1) + context
    key, place = key.sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return entries[place[first].sort().values]


def _by_latent(latent: Tensor, entries: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """The latents that occur (num_latents,), and their first `num` entries (num_latents, num), -1 for none.

    Entries (num,) and their latents are in ascending order of latents.
    """
    latents, line, count = torch.unique_consecutive(latent, return_inverse=True, return_counts=True)
    rank = torch.arange(len(latent), device=latent.device) - (count.cumsum(0) - count)[line]
    first = rank < num
    table = torch.full((len(latents), num), -1, device=latent.device)
    table[line[first], rank[first]] = entries[first]
    return latents, table
