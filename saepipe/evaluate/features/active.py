"""The active latents of a chunk of contexts, kept sparse: all that a feature store is made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.features.contexts import Chunk
from saepipe.evaluate.sae.reconstruction import rows_at_a_time
from saepipe.evaluate.sae.subject import Subject

_LOOK_UPS = 2**22  # of activations in windows, held at once


class Tokens:
    """The rows of a chunk: where each stands, and a random number that belongs to the token whatever else is read."""

    def __init__(self, chunk: Chunk, context_size: int, seed: int, device: torch.device) -> None:
        self.context_size = context_size
        self.x = chunk.x.to(device, torch.float32)  # (num_rows, d_in)
        places = chunk.context * context_size + chunk.position
        self.place = torch.from_numpy(places).to(device)  # (num_rows,): context * context_size + position
        self.uniform = torch.from_numpy(uniform(places, seed)).to(device)  # (num_rows,) float64

    def rows_at(self, places: Tensor) -> Tensor:
        """The row of each place, (any,); -1 where there is none. Rows ascend by place."""
        row = torch.searchsorted(self.place, places).clamp_max(len(self.place) - 1)
        return row.where(self.place[row] == places, -1)


@dataclass(frozen=True)
class Active:
    """Entries (row, latent) with an activation above 0, by row, then by latent."""

    tokens: Tokens
    row: Tensor  # (num_entries,) int64
    latent: Tensor  # (num_entries,) int64
    act: Tensor  # (num_entries,) float32
    d_sae: int

    def windows(self, entries: Tensor, window: int) -> Tensor:
        """(num, window) float32: activations of the latents of some entries (num,) around their tokens.

        0 where a latent is silent, NaN at places that have no row.
        """
        keys = self.row * self.d_sae + self.latent
        return torch.cat(
            [self._windows(part, window, keys) for part in torch.split(entries, max(1, _LOOK_UPS // window))]
        )

    def _windows(self, entries: Tensor, window: int, keys: Tensor) -> Tensor:
        size = self.tokens.context_size
        place = self.tokens.place[self.row[entries]]
        context, position = place // size, place % size
        start = (position - window * 2 // 3).clamp_max(size - window).clamp_min(0)
        offset = torch.arange(window, device=place.device)
        rows = self.tokens.rows_at((context * size + start).unsqueeze(1) + offset)
        wanted = rows * self.d_sae + self.latent[entries].unsqueeze(1)
        at = torch.searchsorted(keys, wanted).clamp_max(len(keys) - 1)
        acts = self.act[at].where(keys[at] == wanted, 0.0)
        return acts.masked_fill(rows < 0, torch.nan)


def active(subject: Subject, tokens: Tokens) -> Active:
    """Encodes the tokens, some rows at a time; raises CorruptDataError if an activation is NaN or Inf."""
    d_sae = subject.sae.d_sae
    rows, latents, acts, first = [], [], [], 0
    for x in torch.split(tokens.x, rows_at_a_time(d_sae)):
        dense = subject.encode(x)
        row, latent = dense.nonzero(as_tuple=True)  # NaN is not zero
        rows.append(row + first)
        latents.append(latent)
        acts.append(dense[row, latent])
        first += len(x)
    act = torch.cat(acts)
    if not act.isfinite().all():
        raise CorruptDataError(f"the SAE of {subject.name} gives NaN or Inf", hint="train it again")
    assert not (act < 0).any(), "activations are not negative, in all architectures"
    return Active(tokens, torch.cat(rows), torch.cat(latents), act, d_sae)


def uniform(places: np.ndarray, seed: int) -> np.ndarray:
    """A number in [0, 1) for each int64, which depends on it and the seed alone (SplitMix64; Steele et al., 2014)."""
    offset = np.random.SeedSequence(seed).generate_state(1, np.uint64)
    with np.errstate(over="ignore"):
        z = places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + offset
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    found: np.ndarray = (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return found
