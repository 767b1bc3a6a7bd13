"""Sparse activations of a chunk of contexts: the one source of everything in a feature store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.features.contexts import Chunk
from saepipe.evaluate.features.token_numbers import uniform
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject
from saepipe.train.kernels.pattern import stable_order

_LOOK_UPS = 2**22  # activations in windows, held at once


class TokenRows:
    """The rows of a chunk: the flat index of each token, and a random number that depends on the token alone.

    `surroundings` are digests of the text around each token, (num_rows,) int64.
    """

    def __init__(
        self, chunk: Chunk, surroundings: np.ndarray, context_size: int, seed: int, device: torch.device
    ) -> None:
        first, flat_index = int(chunk.context[0]) * context_size, chunk.context * context_size + chunk.position
        no_acts = np.full((int(chunk.context[-1]) + 1) * context_size - first, np.nan, np.float32)
        no_acts[flat_index - first] = 0
        self.context_size = context_size
        self.surroundings = torch.from_numpy(surroundings).to(device)
        self.x = chunk.x.to(device, torch.float32)  # (num_rows, d_in)
        self.flat_index = torch.from_numpy(flat_index).to(device)  # (num_rows,): context * context_size + position
        self.place = self.flat_index - first  # (num_rows,) int64: position in the chunk's contexts, one after the other
        self.no_acts = torch.from_numpy(no_acts).to(device)  # (num_places,): 0 at the tokens, NaN where there is none
        self.uniform = torch.from_numpy(uniform(flat_index, seed)).to(device)  # (num_rows,) float64


@dataclass(frozen=True)
class ActiveEntries:
    """Entries (row, latent) with an activation above 0, by row, then by latent."""

    tokens: TokenRows
    row: Tensor  # (num_entries,) int64
    latent: Tensor  # (num_entries,) int64
    act: Tensor  # (num_entries,) float32
    d_sae: int

    def windows(self, entries: Tensor, window: int) -> Tensor:
        """Returns activations of the latents of some entries (num,) around their tokens, (num, window) float32.

        They are 0 where a latent is not active, and NaN at tokens that have no row.
        """
        parts = torch.split(entries, max(1, _LOOK_UPS // window))
        return torch.cat([self._windows(part, window) for part in parts])

    def _windows(self, entries: Tensor, window: int) -> Tensor:
        size, place = self.tokens.context_size, self.tokens.place[self.row[entries]]
        position = (place % size - window * 2 // 3).clamp_max(size - window).clamp_min(0)
        start = place - place % size + position
        acts = self.tokens.no_acts[start.unsqueeze(1) + torch.arange(window, device=start.device)]
        keys, acts_by_key = self._by_latent
        first = self.latent[entries] * len(self.tokens.no_acts) + start
        low, high = torch.searchsorted(keys, first), torch.searchsorted(keys, first + window)
        num = high - low  # of the latent's entries in the window
        line = torch.arange(len(entries), device=num.device).repeat_interleave(num)
        index = torch.arange(len(line), device=num.device) + (high - num.cumsum(0))[line]
        acts[line, keys[index] - first[line]] = acts_by_key[index]
        return acts

    @cached_property
    def _by_latent(self) -> tuple[Tensor, Tensor]:
        """Returns latent * num_places + place of each entry, ascending, and the activations in that order."""
        order = stable_order(self.latent, self.d_sae)
        latent, place = self.latent[order], self.tokens.place[self.row[order]]
        return latent * len(self.tokens.no_acts) + place, self.act[order]


def active_entries(subject: Subject, tokens: TokenRows) -> ActiveEntries:
    """Encodes the tokens, some rows at a time; raises CorruptDataError if an activation is NaN or Inf."""
    d_sae = subject.sae.d_sae
    rows, latents, acts, first = [], [], [], 0
    for x in torch.split(tokens.x, rows_at_a_time(d_sae)):
        entries = subject.encode_sparse(x)  # NaN is one
        rows.append(entries.pattern.rows.long() + first)
        latents.append(entries.pattern.columns.long())
        acts.append(entries.values)
        first += len(x)
    act = torch.cat(acts)
    if not act.isfinite().all():
        raise CorruptDataError(f"the SAE of {subject.name} gives NaN or Inf", hint="train it again")
    assert not (act < 0).any(), "no architecture has negative activations"
    return ActiveEntries(tokens, torch.cat(rows), torch.cat(latents), act, d_sae)
