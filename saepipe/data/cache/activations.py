"""Cached activations, indexed as in a notebook: `acts[:1024]`, `acts[[3, 5, 8]]`, `acts[-1]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Union

import numpy as np

from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

Index = Union[int, slice, Sequence[int], np.ndarray, "Tensor"]


@dataclass(frozen=True)
class Activations:
    """The training rows at one hook, in stored (shuffled) order. Indexing decodes only the chunks that it needs."""

    hook: str
    rows: MappedRows

    @property
    def shape(self) -> tuple[int, int]:
        """(num_tokens, d_in)"""
        return self.rows.num_rows, self.rows.width

    def __len__(self) -> int:
        return self.rows.num_rows

    def __iter__(self) -> Iterator[Tensor]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, index: Index) -> Tensor:
        """bfloat16 (d_in,) for one row number; (n, d_in) for a slice, n row numbers, or a mask (num_tokens,).

        Raises:
            ConfigError: if there is no such row.
            CorruptDataError: if a chunk is damaged.
        """
        if isinstance(index, slice) and index.step in (None, 1):
            start, stop, _ = index.indices(len(self))
            return bfloat16(self.rows.read(start, max(start, stop)))
        if isinstance(index, int | np.integer):
            return self._gather(np.array([index]))[0]
        if isinstance(index, slice):
            return self._gather(np.arange(len(self))[index])
        numbers = np.asarray(index)
        if numbers.dtype == bool and numbers.shape == (len(self),):
            numbers = np.flatnonzero(numbers)
        return self._gather(numbers)

    def _gather(self, numbers: np.ndarray) -> Tensor:
        if numbers.ndim != 1 or (len(numbers) and not np.issubdtype(numbers.dtype, np.integer)):
            hint = "use a row number, a slice, row numbers, or a mask over all rows"
            raise ConfigError(f"cannot index rows with {numbers.dtype} of shape {numbers.shape}", hint=hint)
        for row in numbers[(numbers < -len(self)) | (numbers >= len(self))][:1]:
            raise ConfigError(f"there is no row {row}", hint=f"rows 0 to {len(self) - 1:,}")
        return bfloat16(self.rows.take(numbers.astype(np.int64) % max(len(self), 1)))


def bfloat16(bits: np.ndarray) -> Tensor:
    """Returns uint16 bits as a tensor of the same shape, without a copy."""
    import torch  # here, so that a cache is opened and described without it

    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
