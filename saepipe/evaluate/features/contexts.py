"""The activations of a split, context by context, although a cache keeps its training rows shuffled.

A pool of the cache holds contiguous stretches of the stream, permuted. So each pool is read once and put in order; the
rows of a context that the pool cuts off are kept until the next pool brings the rest. At most one pool is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from saepipe.data.batches.staging_memory import from_bits
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.joined_rows import joined
from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.data.cache.layout import Layout
from saepipe.data.errors import CorruptDataError
from saepipe.evaluate.features.config import Features

ROWS = 2048
"""Rows per chunk, unless a caller has room for more."""


@dataclass(frozen=True)
class Chunk:
    """Some whole contexts, without tokens that have no row: special tokens, and any that the cache left out."""

    x: torch.Tensor
    """(num_rows, d_in) bfloat16, on the CPU"""
    context: np.ndarray
    """(num_rows,) int64: number of the context in its split, ascending"""
    position: np.ndarray
    """(num_rows,) int64: position in the context, ascending"""


@dataclass(frozen=True)
class _OrderedRows:
    """Rows in the order of the stream: row i of it is bits[order[i]], context[i], position[i]."""

    bits: np.ndarray  # (num_rows, d_in) uint16
    context: np.ndarray  # (num_rows,)
    position: np.ndarray  # (num_rows,)
    order: np.ndarray  # (num_rows,)

    def __len__(self) -> int:
        return len(self.order)

    def take(self, start: int, stop: int) -> Chunk:
        order = self.order[start:stop]
        return Chunk(from_bits(self.bits[order]), self.context[start:stop], self.position[start:stop])


def num_rows(cache: Cache, settings: Features) -> int:
    """Returns the number of tokens that `chunks` yields."""
    available = cache.num_tokens if settings.split == "train" else int(cache.heldout.keep.sum())
    return min(available, settings.num_tokens or available)


def chunks(cache: Cache, hook: str, settings: Features, size: int = ROWS) -> Iterator[Chunk]:
    """Yields the first `num_tokens` ordinary tokens of the split, in the order of their contexts.

    A chunk has about `size` rows; contexts are not cut.
    """
    num_left = num_rows(cache, settings)
    of_split = _train(cache, hook, num_left, size) if settings.split == "train" else _heldout(cache, hook, size)
    for chunk in of_split:
        if num_left < len(chunk.x):
            chunk = Chunk(chunk.x[:num_left], chunk.context[:num_left], chunk.position[:num_left])
        yield chunk
        num_left -= len(chunk.x)
        if not num_left:
            return


def _train(cache: Cache, hook: str, limit: int, size: int) -> Iterator[Chunk]:
    """Yields the training rows up to the end of the pool that contains row `limit`."""
    acts = joined([cache.rows(each) for each in hooks_of(hook)])
    contexts, positions = cache.array(Layout.CONTEXT_ID), cache.array(Layout.POSITION)
    carried, start = None, 0
    for pool_size in _pool_sizes(cache):
        stop = start + pool_size
        rows = _in_order(acts.read(start, stop), contexts.read(start, stop), positions.read(start, stop), carried)
        last = stop >= limit
        whole = len(rows) if last else int(np.searchsorted(rows.context, rows.context[-1]))
        for first, end in _chunk_bounds(rows.context[:whole], size):
            yield rows.take(first, end)
        if last:
            return
        carried, start = rows.take(whole, len(rows)), stop
    raise CorruptDataError(f"the manifest of {cache.path} lists fewer pools than the cache has rows")


def _pool_sizes(cache: Cache) -> Iterator[int]:
    """Yields the number of rows of each training pool; they are listed in order."""
    return (int(line["num_rows"]) for line in cache.lines if line["kind"] == "pool" and line["split"] == "train")


def _in_order(bits: np.ndarray, context: np.ndarray, position: np.ndarray, carried: Chunk | None) -> _OrderedRows:
    if carried is not None:
        carried_bits = carried.x.view(torch.int16).numpy().view(np.uint16)
        bits = np.concatenate([carried_bits, bits])
        context = np.concatenate([carried.context, context])
        position = np.concatenate([carried.position, position])
    order = np.lexsort((position, context))
    return _OrderedRows(bits, context[order].astype(np.int64), position[order].astype(np.int64), order)


def _chunk_bounds(context: np.ndarray, size: int) -> Iterator[tuple[int, int]]:
    """Yields start and end row of each chunk; context ascends."""
    starts = np.flatnonzero(np.diff(context, prepend=-1))
    first = 0
    for end in [*starts[1:].tolist(), len(context)]:
        if end - first >= size or first < end == len(context):
            yield first, end
            first = end


def _heldout(cache: Cache, hook: str, size: int) -> Iterator[Chunk]:
    heldout = cache.heldout
    step = max(1, size // heldout.contexts.shape[1])
    for start in range(0, len(heldout.contexts), step):
        keep = np.array(heldout.keep[start : start + step])
        context, position = np.nonzero(keep)
        parts = [heldout.activations(each, start, start + len(keep)) for each in hooks_of(hook)]
        yield Chunk(torch.cat(parts, dim=-1)[torch.from_numpy(keep)], context + start, position)
