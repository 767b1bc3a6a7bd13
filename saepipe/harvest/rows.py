"""Batches of windows, and the rows of the cache that the model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from saepipe.data.cache.special_tokens import keep_mask
from saepipe.harvest.tokenize import Window


@dataclass(frozen=True)
class WindowBatch:
    """Windows of one forward pass. ids and documents are (batch, context_size); first is the first window's number."""

    first: int
    ids: np.ndarray
    documents: np.ndarray
    text: str = ""
    """digest of all windows that were read until the end of this batch; empty if none is wanted"""
    stored: np.ndarray | None = None
    """(batch, context_size) bool: tokens whose rows are stored, unless they are special; None: all"""

    @classmethod
    def of(cls, first: int, windows: Sequence[Window], text: str = "") -> WindowBatch:
        ids, documents, stored = (
            np.stack([getattr(window, name) for window in windows]) for name in ("ids", "documents", "stored")
        )
        return cls(first, ids, documents, text, stored)

    def __len__(self) -> int:
        return len(self.ids)

    def parts(self, num_contexts: int) -> Iterator[WindowBatch]:
        """Yields the batch in parts of at most `num_contexts` contexts."""
        for start in range(0, len(self), num_contexts):
            windows = slice(start, start + num_contexts)
            stored = None if self.stored is None else self.stored[windows]
            yield WindowBatch(self.first + start, self.ids[windows], self.documents[windows], self.text, stored)

    def keep(self, special_ids: frozenset[int]) -> np.ndarray:
        """Returns which tokens' rows are stored, (batch, context_size) bool."""
        ordinary = keep_mask(self.ids, special_ids)
        return ordinary if self.stored is None else ordinary & self.stored


@dataclass(frozen=True)
class Rows:
    """Rows of one batch: arrays (num_rows, ...) by array name, and the number of rows left out for their norm."""

    arrays: Mapping[str, np.ndarray]
    num_dropped: int = 0

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def slice(self, start: int, stop: int) -> dict[str, np.ndarray]:
        return {name: values[start:stop] for name, values in self.arrays.items()}


@dataclass(frozen=True)
class PendingRows:
    """Rows of a batch whose forward pass was started, and may not have ended."""

    most: int
    """number of rows, before those with too large a norm are left out"""
    wait: Callable[[], Rows]
    """waits for the rows; raises the errors of the pass"""
