"""The activations of a split, context by context, though a cache keeps its training rows shuffled.

A pool of the cache holds whole stretches of the stream, permuted. So each is read once and put in order; the rows
of a context that the pool cuts off are kept until the next pool brings the rest. No more than a pool is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from saepipe.data.batches.staging_memory import from_bits
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.features.config import Features

ROWS = 2048
"""Of a chunk, about: contexts are not cut."""


@dataclass(frozen=True)
class Chunk:
    """Some whole contexts, as far as they are read: special tokens, and what the cache left out, are missing."""

    x: torch.Tensor
    """(num_rows, d_in) bfloat16, on the CPU"""
    context: np.ndarray
    """(num_rows,) int64: numbers of contexts in their split, ascending"""
    position: np.ndarray
    """(num_rows,) int64: in its context, ascending"""


@dataclass(frozen=True)
class _Rows:
    """Rows in the order of the stream, which `order` gives: row i of it is bits[order[i]]."""

    bits: np.ndarray
    context: np.ndarray
    position: np.ndarray
    order: np.ndarray

    # each (num_rows,), bits (num_rows, d_in) uint16; context and position are in order already
    def __len__(self) -> int:
        return len(self.order)

    def take(self, start: int, stop: int) -> Chunk:
        order = self.order[start:stop]
        return Chunk(from_bits(self.bits[order]), self.context[start:stop], self.position[start:stop])


def num_rows(cache: Cache, settings: Features) -> int:
    """How many tokens `chunks` gives."""
    found = cache.num_tokens if settings.split == "train" else int(cache.heldout.keep.sum())
    return min(found, settings.num_tokens or found)


def chunks(cache: Cache, hook: str, settings: Features) -> Iterator[Chunk]:
    """The first `num_tokens` ordinary tokens of the split, in the order of their contexts."""
    left = num_rows(cache, settings)
    for chunk in _train(cache, hook, left) if settings.split == "train" else _heldout(cache, hook):
        if left < len(chunk.x):
            chunk = Chunk(chunk.x[:left], chunk.context[:left], chunk.position[:left])
        yield chunk
        left -= len(chunk.x)
        if not left:
            return


def _train(cache: Cache, hook: str, limit: int) -> Iterator[Chunk]:
    """As far as the pool in which row `limit` lies."""
    acts = cache.rows(hook)
    contexts, positions = (MappedRows(cache.path, name, cache.files) for name in ("context_id", "position"))
    carried, start = None, 0
    while start < limit:
        stop = start + _pool_rows(cache, start)
        rows = _in_order(acts.read(start, stop), contexts.read(start, stop), positions.read(start, stop), carried)
        last = stop >= limit
        whole = len(rows) if last else int(np.searchsorted(rows.context, rows.context[-1]))
        for first, end in _cuts(rows.context[:whole]):
            yield rows.take(first, end)
        carried, start = None if last else rows.take(whole, len(rows)), stop


def _pool_rows(cache: Cache, start: int) -> int:
    """Rows of the pool that begins at row `start`."""
    for line in cache.lines:  # of training pools, in order
        if line["kind"] == "pool" and line["split"] == "train":
            if not start:
                return int(line["num_rows"])
            start -= line["num_rows"]
    raise CorruptDataError(f"the manifest of {cache.path} lists fewer pools than the cache has rows")


def _in_order(bits: np.ndarray, context: np.ndarray, position: np.ndarray, carried: Chunk | None) -> _Rows:
    if carried is not None:
        before = carried.x.view(torch.int16).numpy().view(np.uint16)
        bits = np.concatenate([before, bits])
        context = np.concatenate([carried.context, context])
        position = np.concatenate([carried.position, position])
    order = np.lexsort((position, context))
    return _Rows(bits, context[order].astype(np.int64), position[order].astype(np.int64), order)


def _cuts(context: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last row of each chunk; context ascends."""
    starts = np.flatnonzero(np.diff(context, prepend=-1))
    first = 0
    for end in [*starts[1:].tolist(), len(context)]:
        if end - first >= ROWS or first < end == len(context):
            yield first, end
            first = end


def _heldout(cache: Cache, hook: str) -> Iterator[Chunk]:
    heldout = cache.heldout
    size = heldout.contexts.shape[1]
    step = max(1, ROWS // size)
    for start in range(0, len(heldout.contexts), step):
        keep = np.array(heldout.keep[start : start + step])
        context, position = np.nonzero(keep)
        x = heldout.activations(hook, start, start + len(keep))[torch.from_numpy(keep)]
        yield Chunk(x, context + start, position)
