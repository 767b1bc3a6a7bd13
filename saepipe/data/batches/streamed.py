"""A cache streamed through memory: threads decode the next pool while the current one is served."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch

from saepipe.data.batches.shuffle import Pool
from saepipe.data.batches.staging_memory import StagingMemory, from_bits
from saepipe.data.cache.joined_rows import BatchRows
from saepipe.data.workers import Workers


class StreamedRows:
    """The pools of a stream in order, two at a time in memory."""

    def __init__(self, rows: BatchRows, staging: StagingMemory, pool_chunks: int, threads: int) -> None:
        self._rows, self._staging = rows, staging
        self._pool_rows = pool_chunks * rows.chunk_rows
        self._spare: list[torch.Tensor | None] = []  # buffers of iterators that have ended
        self._workers = Workers(threads, "decode")

    def close(self) -> None:
        self._workers.close()
        self._spare.clear()

    def load_pools(self, pools: Iterator[Pool]) -> Generator[tuple[Pool, ShuffledRows | ShuffledViews]]:
        """Yields each pool with its rows, while the next one is being decoded; closing the generator stops decoding."""
        buffers = deque([self._buffer(), self._buffer()])
        upcoming = self._start_next(pools, buffers[0])
        try:
            while upcoming is not None:
                buffers.rotate(-1)
                load = upcoming
                rows = load.wait()
                upcoming = self._start_next(pools, buffers[0])
                yield load.pool, rows
        finally:
            if upcoming is not None:
                self._workers.cancel(upcoming.parts)
            self._spare.extend(buffers)

    def _buffer(self) -> torch.Tensor | None:
        if self._spare:
            return self._spare.pop()
        if self._staging.can_map and self._rows.zero_copy:
            return None
        return self._staging.empty(self._pool_rows, self._rows.width)

    def _start_next(self, pools: Iterator[Pool], buffer: torch.Tensor | None) -> _Mapping | _Decoding | None:
        """Starts to load the next pool; returns None if there is none."""
        if (pool := next(pools, None)) is None:
            return None
        for chunk in pool.chunks:
            self._rows.will_need(chunk)
        if buffer is None:
            return _Mapping(
                pool, self._workers, [self._workers.submit(self._rows.view_chunk, chunk) for chunk in pool.chunks]
            )
        self._staging.before_fill(buffer)
        parts = zip(pool.chunks, split_chunks(buffer, self._rows.chunk_rows), strict=False)
        fills = [self._workers.submit(self._staging.fill, self._rows, chunk, out) for chunk, out in parts]
        return _Decoding(pool, self._workers, fills, self._staging, buffer)


def split_chunks(memory: torch.Tensor, chunk_rows: int) -> tuple[torch.Tensor, ...]:
    """Splits `memory`, (num_chunks * chunk_rows, d_in), into views (chunk_rows, d_in)."""
    return memory.view(-1, chunk_rows, memory.shape[1]).unbind()


@dataclass(frozen=True)
class _Decoding:
    """A pool being decoded into `buffer`, (pool_rows, d_in)."""

    pool: Pool
    workers: Workers
    parts: list[Future[None]]
    staging: StagingMemory
    buffer: torch.Tensor

    def wait(self) -> ShuffledRows:
        for part in self.parts:
            self.workers.result(part)
        self.staging.after_fill()
        return ShuffledRows(self.staging, self.buffer, self.staging.upload_index(self.pool.order()))


@dataclass(frozen=True)
class _Mapping:
    """A pool of an uncompressed cache whose mapped chunks are being checked."""

    pool: Pool
    workers: Workers
    parts: list[Future[np.ndarray]]

    def wait(self) -> ShuffledViews:
        return ShuffledViews([self.workers.result(part) for part in self.parts], self.pool.order())


@dataclass(frozen=True)
class ShuffledRows:
    """The rows `index`, (num_rows,), of `memory`, (any, d_in)."""

    staging: StagingMemory
    memory: torch.Tensor
    index: torch.Tensor

    def take(self, start: int, stop: int) -> torch.Tensor:
        """Copies rows [start, stop) of that order into a new tensor, (stop - start, d_in)."""
        return self.staging.gather(self.memory, self.index[start:stop])


@dataclass(frozen=True)
class ShuffledViews:
    """The rows `index` of mapped chunks, each (chunk_rows, d_in), numbered through all of the chunks."""

    chunks: list[np.ndarray]
    index: torch.Tensor

    def take(self, start: int, stop: int) -> torch.Tensor:
        """Same as `ShuffledRows.take`."""
        chunk, row = np.divmod(self.index[start:stop].numpy(), len(self.chunks[0]))
        rows = np.empty((stop - start, self.chunks[0].shape[1]), np.uint16)
        for number in np.unique(chunk):
            mask = chunk == number
            rows[mask] = self.chunks[number][row[mask]]
        return from_bits(rows)
