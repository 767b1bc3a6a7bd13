"""A cache streamed through memory: the next pool is decoded on threads while the current one is served."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from saepipe.data.batches.shuffle import Pool
from saepipe.data.batches.staging_memory import Place, from_bits
from saepipe.data.cache.mapped_rows import MappedRows


class Streamed:
    """The pools of a stream as they come, two at a time in memory."""

    def __init__(self, rows: MappedRows, place: Place, pool_chunks: int, threads: int) -> None:
        self._rows, self._place = rows, place
        self._pool_rows = pool_chunks * rows.chunk_rows
        self._spare: list[torch.Tensor | None] = []  # buffers of iterators that have ended
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def close(self) -> None:
        self._workers.shutdown(wait=True, cancel_futures=True)
        self._spare.clear()

    def loaded(self, coming: Iterator[Pool]) -> Generator[tuple[Pool, ShuffledRows | ShuffledViews]]:
        """Each pool with its rows; the one after it is being decoded. One that is left early decodes no more."""
        buffers = deque([self._buffer(), self._buffer()])
        following = next(coming)
        ahead = self._start(following, buffers[0])
        try:
            while True:
                buffers.rotate(-1)
                current, load = following, ahead
                rows = load.wait()
                following = next(coming)
                ahead = self._start(following, buffers[0])
                yield current, rows
        finally:
            abandon(ahead.parts)
            self._spare.extend(buffers)

    def _buffer(self) -> torch.Tensor | None:
        if self._spare:
            return self._spare.pop()
        if self._place.maps and self._rows.zero_copy:
            return None
        return self._place.empty(self._pool_rows, self._rows.array.row_shape[0])

    def _start(self, pool: Pool, buffer: torch.Tensor | None) -> _Mapping | _Decoding:
        for chunk in pool.chunks:
            self._rows.will_need(chunk)
        if buffer is None:
            return _Mapping(pool, [self._workers.submit(self._rows.view_chunk, chunk) for chunk in pool.chunks])
        self._place.claim(buffer)
        parts = zip(pool.chunks, chunks_of(buffer, self._rows.chunk_rows), strict=False)
        fills = [self._workers.submit(self._place.fill, self._rows, chunk, out) for chunk, out in parts]
        return _Decoding(pool, fills, self._place, buffer)


def chunks_of(memory: torch.Tensor, chunk_rows: int) -> tuple[torch.Tensor, ...]:
    """Parts of `memory`, (whole chunks, d_in), each (chunk_rows, d_in)."""
    return memory.view(-1, chunk_rows, memory.shape[1]).unbind()


def abandon(parts: Sequence[Future[Any]]) -> None:
    """Begins none of them any more, and waits for those that have begun."""
    wait([part for part in parts if not part.cancel()])


@dataclass(frozen=True)
class _Decoding:
    """A pool on its way into `buffer`, (pool_rows, d_in)."""

    pool: Pool
    parts: list[Future[None]]
    place: Place
    buffer: torch.Tensor

    def wait(self) -> ShuffledRows:
        for part in self.parts:
            part.result()
        self.place.settle()
        return ShuffledRows(self.place, self.buffer, self.place.index(self.pool.order()))


@dataclass(frozen=True)
class _Mapping:
    """A pool of an uncompressed cache that is being checked where it lies."""

    pool: Pool
    parts: list[Future[np.ndarray]]

    def wait(self) -> ShuffledViews:
        return ShuffledViews([part.result() for part in self.parts], self.pool.order())


@dataclass(frozen=True)
class ShuffledRows:
    """Rows of `memory`, (any, d_in), in the order `index`, (num_rows,)."""

    place: Place
    memory: torch.Tensor
    index: torch.Tensor

    def take(self, start: int, stop: int) -> torch.Tensor:
        """Rows [start, stop) in that order, (stop - start, d_in), in memory of their own."""
        return self.place.draw(self.memory, self.index[start:stop])


@dataclass(frozen=True)
class ShuffledViews:
    """Rows of mapped chunks, each (chunk_rows, d_in), in the order `index`, counted through all of them."""

    chunks: list[np.ndarray]
    index: torch.Tensor

    def take(self, start: int, stop: int) -> torch.Tensor:
        """As `ShuffledRows.take`."""
        chunk, row = np.divmod(self.index[start:stop].numpy(), len(self.chunks[0]))
        rows = np.empty((stop - start, self.chunks[0].shape[1]), np.uint16)
        for number in np.unique(chunk):
            here = chunk == number
            rows[here] = self.chunks[number][row[here]]
        return from_bits(rows)
