"""Cached activations as a notebook reads them: `acts[:1024]`, `acts[[3, 5, 8]]`, `acts[-1]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import ConfigError

Index = int | slice | Sequence[int] | np.ndarray | Tensor


@dataclass(frozen=True)
class Activations:
    """The training rows at one hook, in stored (shuffled) order. Only the chunks that are asked for are decoded."""

    hook: str
    rows: MappedRows

    @property
    def shape(self) -> tuple[int, int]:
        """(num_tokens, d_in)"""
        return self.rows.num_rows, self.rows.array.row_shape[0]

    def __len__(self) -> int:
        return self.rows.num_rows

    def __iter__(self) -> Iterator[Tensor]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, index: Index) -> Tensor:
        """bfloat16 (d_in,) of one row; (n, d_in) of a slice, of n row numbers, or of a mask (num_tokens,).

        Raises:
            ConfigError: if there is no such row.
            CorruptDataError: if a chunk's bytes are not what was written.
        """
        if isinstance(index, slice) and index.step in (None, 1):
            start, stop, _ = index.indices(len(self))
            return _bfloat16(self.rows.read(start, max(start, stop)))
        if isinstance(index, int | np.integer):
            return self._gather(np.array([index]))[0]
        if isinstance(index, slice):
            return self._gather(np.arange(len(self))[index])
        wanted = np.asarray(index)
        if wanted.dtype == bool and wanted.shape == (len(self),):
            wanted = np.flatnonzero(wanted)
        return self._gather(wanted)

    def _gather(self, wanted: np.ndarray) -> Tensor:
        if wanted.ndim != 1 or (len(wanted) and not np.issubdtype(wanted.dtype, np.integer)):
            hint = "a row number, a slice, row numbers, or a mask of all rows"
            raise ConfigError(f"rows cannot be picked by {wanted.dtype} of shape {wanted.shape}", hint=hint)
        for row in wanted[(wanted < -len(self)) | (wanted >= len(self))][:1]:
            raise ConfigError(f"there is no row {row}", hint=f"rows 0 to {len(self) - 1:,}")
        return _bfloat16(self.rows.take(wanted.astype(np.int64) % max(len(self), 1)))


def _bfloat16(bits: np.ndarray) -> Tensor:
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
