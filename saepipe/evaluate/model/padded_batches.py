"""Sequences of different lengths in batches. They are padded on the right: attention is causal, so no token sees it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor


def rows_by_length(lengths: Tensor, batch_size: int) -> Iterator[Tensor]:
    """Yields indices of sequences, the shortest first, `batch_size` at a time."""
    if len(lengths):
        yield from torch.split(lengths.argsort(stable=True), batch_size)


def padded(rows: Sequence[Tensor]) -> Tensor:
    """Pads rows to the length of the longest with zeros (token 0, a vector of zeros, False)."""
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def padded_batches(sequences: Sequence[Tensor], batch_size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields sequences of similar length: indices (batch,), padded ids (batch, seq), last position (batch,)."""
    lengths = torch.tensor([len(ids) for ids in sequences], dtype=torch.int64)
    for rows in rows_by_length(lengths, batch_size):
        yield rows, padded([sequences[row] for row in rows]), lengths[rows] - 1
