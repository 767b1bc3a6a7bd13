"""The tokens of each latent with the largest scores, kept during the pass over the stream, each with its window.

With the activation as the score, and at most one token per context, they are the top examples. With a random number
that depends on the token as the score, they are a uniform sample of the tokens on which the latent is active.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saepipe.evaluate.features.active import ActiveEntries


class TopExamples:
    """Keeps the `num` best-scoring tokens of each latent. Among equal scores the earlier token stays."""

    def __init__(self, d_sae: int, num: int, window: int, device: torch.device) -> None:
        self.score = torch.full((d_sae, num), -torch.inf, dtype=torch.float64, device=device)  # -inf: none yet
        self.flat_index = torch.full((d_sae, num), -1, device=device)  # context * context_size + position
        self.act = torch.zeros(d_sae, num, device=device)
        self.windows = torch.zeros(d_sae, num, window, device=device)

    def add(self, active: ActiveEntries, score: Tensor, *, one_per_context: bool) -> None:
        """Offers all entries of a chunk, (num_entries,) scores. Chunks come in the order of their contexts."""
        entries = (score > self.score.amin(dim=1)[active.latent]).nonzero().flatten()
        if not len(entries):
            return
        order = score[entries].sort(descending=True, stable=True).indices
        entries = entries[order[active.latent[entries][order].sort(stable=True).indices]]  # by latent, best first
        if one_per_context:
            entries = _best_of_contexts(active, entries)
        latents, candidates = _by_latent(active.latent[entries], entries, self.score.shape[1])
        self._merge(active, score, latents, candidates)

    def _merge(self, active: ActiveEntries, score: Tensor, latents: Tensor, candidates: Tensor) -> None:
        """Merges candidate entries (num_latents, num), -1 for none; each takes the slot of the example it replaces."""
        num = self.score.shape[1]
        offered = score[candidates].masked_fill(candidates < 0, -torch.inf).double()
        scores = torch.cat([self.score[latents], offered], dim=1)
        both = torch.cat([self.flat_index[latents], active.tokens.flat_index[active.row[candidates]]], dim=1)
        order = both.sort(dim=1, stable=True).indices
        order = order.gather(1, scores.gather(1, order).sort(dim=1, descending=True, stable=True).indices)
        stays = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, order[:, :num], True)
        line, slot = (~stays[:, :num]).nonzero(as_tuple=True)
        entries = candidates[stays[:, num:]]  # as many per latent as freed slots, and in the same order of latents
        slots = (latents[line], slot)
        self.score[slots] = score[entries].double()
        self.flat_index[slots] = active.tokens.flat_index[active.row[entries]]
        self.act[slots] = active.act[entries]
        self.windows[slots] = active.windows(entries, self.windows.shape[2])

    def in_order(self, *, strongest_first: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns flat indices (d_sae, num) int64, -1 (none) last, and windows (d_sae, num, window), by activation."""
        order = self.flat_index.sort(dim=1).indices
        act = -self.act if strongest_first else self.act
        act = act.masked_fill(self.flat_index < 0, torch.inf).gather(1, order)
        order = order.gather(1, act.sort(dim=1, stable=True).indices)
        windows = self.windows[torch.arange(len(order), device=order.device).unsqueeze(1), order]
        return self.flat_index.gather(1, order).cpu().numpy(), windows.cpu().numpy()


def _best_of_contexts(active: ActiveEntries, entries: Tensor) -> Tensor:
    """Returns the first of entries (num,) for each latent and context, in the same order: by latent, best first."""
    context = active.tokens.flat_index[active.row[entries]] // active.tokens.context_size
    context = context - context.min()
    key = active.latent[entries] * (context.max() + 1) + context
    key, index = key.sort(stable=True)
    first = torch.ones_like(key, dtype=torch.bool)
    first[1:] = key[1:] != key[:-1]
    return entries[index[first].sort().values]


def _by_latent(latent: Tensor, entries: Tensor, num: int) -> tuple[Tensor, Tensor]:
    """Returns the latents that occur (num_latents,), and their first `num` entries (num_latents, num), -1 for none.

    Entries (num,) and their latents are in ascending order of latents.
    """
    latents, line, count = torch.unique_consecutive(latent, return_inverse=True, return_counts=True)
    rank = torch.arange(len(latent), device=latent.device) - (count.cumsum(0) - count)[line]
    first = rank < num
    table = torch.full((len(latents), num), -1, device=latent.device)
    table[line[first], rank[first]] = entries[first]
    return latents, table
