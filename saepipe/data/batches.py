"""Shuffled batches from a cache: an endless stream whose batch n is a pure function of (cache, batch size, seed, n).

An epoch's order of chunks is cut into disjoint pools, and each pool's rows are permuted by (seed, epoch, pool). So a
stream that is resumed needs one integer, every variant sees the same batches, and reading stays sequential within
chunks (random rows through a compressed array cost over 400 times as much: `bench/cache.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch

from saepipe.data.cache import Cache
from saepipe.data.mmap_store import MappedRows
from saepipe.data.shuffle import permutation


@dataclass(frozen=True)
class Pool:
    """Some chunks of one epoch, to be shuffled together."""

    epoch: int
    number: int
    chunks: tuple[int, ...]
    num_rows: int
    skip: int
    """Rows at the front of its permuted order that are not wanted: the stream began later."""


def pools(rows: MappedRows, seed: int, pool_chunks: int, start: int) -> Iterator[Pool]:
    """The endless sequence of pools from row `start` of the stream on."""
    epoch, skip = divmod(start, rows.num_rows)
    while True:
        order = permutation(rows.num_chunks, seed, epoch).tolist()
        for number, first in enumerate(range(0, len(order), pool_chunks)):
            # The last chunk of the cache may not be full. At the end of its pool it leaves no gap there.
            chunks = tuple(sorted(order[first : first + pool_chunks], key=lambda chunk: chunk == rows.num_chunks - 1))
            num_rows = sum(rows.rows_in(chunk) for chunk in chunks)
            if skip < num_rows:
                yield Pool(epoch, number, chunks, num_rows, skip)
            skip = max(0, skip - num_rows)
        epoch += 1


class BatchStream:
    """Batches of raw activations at one hook. Decodes the next pool on threads while the current one is served."""

    def __init__(
        self, cache: Cache, hook: str, batch_size: int, seed: int, *, pool_chunks: int = 64, threads: int = 2
    ) -> None:
        """
        Args:
            cache: a finished cache.
            hook: which of its hooks; raises ConfigError if it has no such one.
            batch_size: rows a batch.
            seed: of the order; the same batches come for the same seed.
            pool_chunks: chunks shuffled together; two pools are in memory at a time.
            threads: decoders.
        """
        self._rows = cache.rows(hook)
        self.num_rows = self._rows.num_rows
        self.batch_size, self.seed = batch_size, seed
        self._pool_chunks = min(pool_chunks, self._rows.num_chunks)
        self._workers = ThreadPoolExecutor(threads, thread_name_prefix="decode")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads; batches already handed out stay valid."""
        self._workers.shutdown(wait=True, cancel_futures=True)

    def batches(self, start: int = 0) -> Iterator[torch.Tensor]:
        """Batches `start`, `start + 1`, ... without end, across epochs: (batch, d_in) bfloat16 on the CPU."""
        wanted, parts = self.batch_size, []
        for pool, load in self._loaded(start * self.batch_size):
            order = permutation(pool.num_rows, self.seed, pool.epoch, pool.number)
            at = pool.skip
            while at < pool.num_rows:
                index = order[at : at + wanted]
                parts.append(load.gather(index))
                at += len(index)
                wanted -= len(index)
                if wanted == 0:
                    yield parts[0] if len(parts) == 1 else torch.cat(parts)
                    wanted, parts = self.batch_size, []

    def _loaded(self, start: int) -> Iterator[tuple[Pool, _Load]]:
        """Each pool with its rows at hand; the one after it is being decoded, the one after that read ahead."""
        coming = pools(self._rows, self.seed, self._pool_chunks, start)
        buffers = deque([None, None] if self._rows.zero_copy else [self._new_buffer(), self._new_buffer()])
        following = next(coming)
        ahead = self._start(following, buffers[0])
        while True:
            buffers.rotate(-1)
            current, load = following, ahead
            load.wait()
            following = next(coming)
            ahead = self._start(following, buffers[0])
            yield current, load

    def _new_buffer(self) -> np.ndarray:
        return np.empty((self._pool_chunks, self._rows.chunk_rows, *self._rows.array.row_shape), np.uint16)

    def _start(self, pool: Pool, buffer: np.ndarray | None) -> _Load:
        for chunk in pool.chunks:
            self._rows.will_need(chunk)
        if buffer is None:
            views = [self._workers.submit(self._rows.view_chunk, chunk) for chunk in pool.chunks]
            return _Mapped(views)
        reads = [self._workers.submit(self._rows.read_chunk, chunk, buffer[i]) for i, chunk in enumerate(pool.chunks)]
        return _Decoded(reads, buffer)


def _bfloat16(bits: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


class _Decoded:
    """A pool's rows in a reused buffer."""

    def __init__(self, reads: list[Future[None]], buffer: np.ndarray) -> None:
        self._reads = reads
        self._rows = buffer.reshape(-1, buffer.shape[-1])

    def wait(self) -> None:
        for read in self._reads:
            read.result()

    def gather(self, index: torch.Tensor) -> torch.Tensor:
        # By numpy, on this thread alone: the other cores are decoding the next pool.
        return _bfloat16(np.take(self._rows, index.numpy(), axis=0))


class _Mapped:
    """A pool's rows where they lie in the mapped files."""

    def __init__(self, views: list[Future[np.ndarray]]) -> None:
        self._views = views

    def wait(self) -> None:
        self._chunks = [view.result() for view in self._views]

    def gather(self, index: torch.Tensor) -> torch.Tensor:
        chunk, row = np.divmod(index.numpy(), len(self._chunks[0]))
        rows = np.empty((len(index), self._chunks[0].shape[1]), np.uint16)
        for number in np.unique(chunk):
            here = chunk == number
            rows[here] = self._chunks[number][row[here]]
        return _bfloat16(rows)


_Load = _Decoded | _Mapped
