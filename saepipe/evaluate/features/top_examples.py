"""The tokens of each latent with the largest scores, kept during the pass over the stream, each with its window.

With the activation as the score they are the top examples. With a random number that depends on the token as the score,
they are a sample of the tokens on which the latent is active. No two tokens of a latent share their context or the text
around them: of those that do, the best stays.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from saepipe.evaluate.features.active import ActiveEntries
from saepipe.train.kernels.pattern import true_positions


class TopExamples:
    """Keeps the `num` best-scoring tokens of each latent. Among equal scores the earlier token stays."""

    def __init__(self, d_sae: int, num: int, window: int, device: torch.device) -> None:
        self.score = torch.full((d_sae, num), -torch.inf, dtype=torch.float64, device=device)  # -inf: none yet
        self.flat_index = torch.full((d_sae, num), -1, device=device)  # context * context_size + position
        self.surroundings = torch.zeros(d_sae, num, dtype=torch.int64, device=device)
        self.act = torch.zeros(d_sae, num, device=device)
        self.windows = torch.zeros(d_sae, num, window, device=device)

    def add(self, active: ActiveEntries, score: Tensor) -> None:
        """Offers all entries of a chunk, (num_entries,) scores. Chunks come in the order of their contexts."""
        entries = true_positions(score > self.score.amin(dim=1).index_select(0, active.latent))
        if not len(entries):
            return
        order = score[entries].sort(descending=True, stable=True).indices
        entries = entries[order[active.latent[entries][order].sort(stable=True).indices]]  # by latent, best first
        for group in (active.tokens.flat_index // active.tokens.context_size, active.tokens.surroundings):
            entries = entries[_first_of_each(active.latent[entries], group[active.row[entries]])]
        latents, candidates = _by_latent(active.latent[entries], entries, self.score.shape[1])
        self._merge(active, score, latents, candidates)

    def _merge(self, active: ActiveEntries, score: Tensor, latents: Tensor, candidates: Tensor) -> None:
        """Merges candidate entries (num_latents, num), -1 for none; each takes the slot of the example it replaces."""
        num, rows = self.score.shape[1], active.row[candidates]
        offered = score[candidates].masked_fill(candidates < 0, -torch.inf).double()
        scores = torch.cat([self.score[latents], offered], dim=1)
        both = torch.cat([self.flat_index[latents], active.tokens.flat_index[rows]], dim=1)
        text = torch.cat([self.surroundings[latents], active.tokens.surroundings[rows]], dim=1)
        scores = scores.masked_fill(_repeated(text, _best_first(both, scores)), -torch.inf)
        stays = torch.zeros_like(scores, dtype=torch.bool).scatter_(1, _best_first(both, scores)[:, :num], True)
        line, slot = (~stays[:, :num]).nonzero(as_tuple=True)
        entries = candidates[stays[:, num:]]  # as many per latent as freed slots, and in the same order of latents
        self._put((latents[line], slot), entries, active, score)

    def _put(self, slots: tuple[Tensor, Tensor], entries: Tensor, active: ActiveEntries, score: Tensor) -> None:
        rows = active.row[entries]
        self.score[slots] = score[entries].double()
        self.flat_index[slots] = active.tokens.flat_index[rows]
        self.surroundings[slots] = active.tokens.surroundings[rows]
        self.act[slots] = active.act[entries]
        self.windows[slots] = active.windows(entries, self.windows.shape[2])

    def leave_out(self, shown: TopExamples, num: int, context_size: int) -> None:
        """Keeps the `num` best of those whose context and text are not among the examples in `shown`."""
        repeated = _is_in(self.surroundings, shown.surroundings, shown.flat_index >= 0)
        repeated |= _is_in(self.flat_index // context_size, shown.flat_index // context_size, shown.flat_index >= 0)
        self.score.masked_fill_(repeated, -torch.inf)
        order = _best_first(self.flat_index, self.score)[:, :num]
        latents = torch.arange(len(order), device=order.device).unsqueeze(1)
        for name in ("score", "flat_index", "surroundings", "act", "windows"):
            setattr(self, name, getattr(self, name)[latents, order])
        self.flat_index.masked_fill_(self.score.isinf(), -1)

    def in_order(self, *, strongest_first: bool) -> tuple[np.ndarray, np.ndarray]:
        """Returns flat indices (d_sae, num) int64, -1 (none) last, and windows (d_sae, num, window), by activation."""
        order = self.flat_index.sort(dim=1).indices
        act = -self.act if strongest_first else self.act
        act = act.masked_fill(self.flat_index < 0, torch.inf).gather(1, order)
        order = order.gather(1, act.sort(dim=1, stable=True).indices)
        windows = self.windows[torch.arange(len(order), device=order.device).unsqueeze(1), order]
        return self.flat_index.gather(1, order).cpu().numpy(), windows.cpu().numpy()


def _first_of_each(latent: Tensor, group: Tensor) -> Tensor:
    """Returns the positions, ascending, of the first of each latent and group, (num,) each; latents ascend."""
    order = group.sort(stable=True).indices
    order = order[latent[order].sort(stable=True).indices]
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = (latent[order][1:] != latent[order][:-1]) | (group[order][1:] != group[order][:-1])
    return order[first].sort().values


def _best_first(flat_index: Tensor, scores: Tensor) -> Tensor:
    """Returns the order of each line's slots, (num_lines, num): by score, the largest first, then by flat index."""
    order = flat_index.sort(dim=1, stable=True).indices
    return order.gather(1, scores.gather(1, order).sort(dim=1, descending=True, stable=True).indices)


def _repeated(text: Tensor, order: Tensor) -> Tensor:
    """Returns whether a slot with the same text comes earlier in the line's order, (num_lines, num)."""
    by_text, index = text.gather(1, order).sort(dim=1, stable=True)
    repeated = torch.zeros_like(text, dtype=torch.bool)
    repeated[:, 1:] = by_text[:, 1:] == by_text[:, :-1]
    return torch.zeros_like(repeated).scatter_(1, order.gather(1, index), repeated)


def _is_in(values: Tensor, others: Tensor, valid: Tensor) -> Tensor:
    """Returns whether each value is among the valid ones of its line, (num_lines, num)."""
    found = torch.zeros_like(values, dtype=torch.bool)
    for column in range(others.shape[1]):
        found |= (values == others[:, column : column + 1]) & valid[:, column : column + 1]
    return found


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
