"""Sparse activations of a chunk of contexts: the one source of everything in a feature store."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.features.contexts import Chunk
from saepipe.evaluate.features.token_numbers import uniform
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject

_LOOK_UPS = 2**22  # activations in windows, held at once


class TokenRows:
    """The rows of a chunk: the flat index of each token, and a random number that depends on the token alone.

    `surroundings` are digests of the text around each token, (num_rows,) int64.
    """

    def __init__(
        self, chunk: Chunk, surroundings: np.ndarray, context_size: int, seed: int, device: torch.device
    ) -> None:
        self.context_size = context_size
        self.surroundings = torch.from_numpy(surroundings).to(device)
        self.x = chunk.x.to(device, torch.float32)  # (num_rows, d_in)
        flat_index = chunk.context * context_size + chunk.position
        self.flat_index = torch.from_numpy(flat_index).to(device)  # (num_rows,): context * context_size + position
        self.uniform = torch.from_numpy(uniform(flat_index, seed)).to(device)  # (num_rows,) float64

    def rows_at(self, flat_index: Tensor) -> Tensor:
        """Returns the row of each flat index, (any,), -1 if there is none. Rows ascend by flat index."""
        row = torch.searchsorted(self.flat_index, flat_index).clamp_max(len(self.flat_index) - 1)
        return row.where(self.flat_index[row] == flat_index, -1)


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
        keys = self.row * self.d_sae + self.latent
        return torch.cat(
            [self._windows(part, window, keys) for part in torch.split(entries, max(1, _LOOK_UPS // window))]
        )

    def _windows(self, entries: Tensor, window: int, keys: Tensor) -> Tensor:
        size = self.tokens.context_size
        flat_index = self.tokens.flat_index[self.row[entries]]
        context, position = flat_index // size, flat_index % size
        start = (position - window * 2 // 3).clamp_max(size - window).clamp_min(0)
        offset = torch.arange(window, device=flat_index.device)
        rows = self.tokens.rows_at((context * size + start).unsqueeze(1) + offset)
        window_keys = rows * self.d_sae + self.latent[entries].unsqueeze(1)
        index = torch.searchsorted(keys, window_keys).clamp_max(len(keys) - 1)
        acts = self.act[index].where(keys[index] == window_keys, 0.0)
        return acts.masked_fill(rows < 0, torch.nan)


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
