"""Shuffled batches from a cache: an endless stream whose batch n is a pure function of (cache, batch size, seed, n).

The shuffled chunks of an epoch are cut into disjoint pools, and each pool's rows are permuted by (seed, epoch, pool).
So resuming a stream takes one integer, every variant sees the same batches, and reading stays sequential within chunks
(random rows of a compressed array cost over 400 times as much: `bench/cache.py`). Batches do not depend on whether
rows are decoded one pool ahead or all kept in memory.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import Self

import torch

from saepipe.data.batches.memory import Resident, check_resident
from saepipe.data.batches.resident import ResidentRows
from saepipe.data.batches.shared_pools import SharedPools, Sharing
from saepipe.data.batches.shuffle import first_pools, pools
from saepipe.data.batches.staging_memory import staging_memory, to_device
from saepipe.data.batches.streamed import StreamedRows
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.joined_rows import joined
from saepipe.data.terminal.progress import Progress, Silent

CPU = torch.device("cpu")


POOL_CHUNKS = 64
"""Chunks shuffled together."""


class BatchStream:
    """Batches of raw activations at one hook, or at several side by side."""

    def __init__(
        self,
        cache: Cache,
        hooks: str | Sequence[str],
        batch_size: int,
        seed: int,
        *,
        device: torch.device = CPU,
        resident: Resident = "none",
        pool_chunks: int = POOL_CHUNKS,
        stretch_rows: int | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Opens the stream; with `resident`, decodes the whole cache first.

        Args:
            cache: a finished cache.
            hooks: one of its hooks, or several whose activations are then side by side in a row.
            batch_size: rows per batch.
            seed: seed of the order; the same seed gives the same batches.
            device: device of the batches.
            resident: `ram` or `gpu` keep all rows in that memory; `none` decodes one pool ahead.
            pool_chunks: chunks shuffled together; when streaming, two pools are in memory at a time.
            stretch_rows: a whole number of chunks; an epoch goes through stretches of that many rows as they are
                stored, and is shuffled within each. None shuffles the whole cache.
            threads: number of decoder threads; by default as many as cores, at most 4.
            progress: receives the progress of decoding a resident cache.

        Raises:
            ConfigError: if the cache has no such hook, or `resident` is `gpu` and the device is not CUDA.
            OutOfSpaceError: if a resident cache does not fit; raised before anything is decoded.
            CorruptDataError: if a shard is damaged; the message names it. When streaming, `batches` raises it.
        """
        check_resident(resident, device)
        rows = joined([cache.rows(hook) for hook in ([hooks] if isinstance(hooks, str) else hooks)])
        threads = threads or min(4, os.cpu_count() or 1)
        staging = staging_memory(CPU if resident == "ram" else device, rows, threads)
        self.num_rows = rows.num_rows
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self._rows, self._threads = rows, threads
        self._chunk_rows, self._stretch_rows = rows.chunk_rows, stretch_rows
        self._pool_chunks = min(pool_chunks, -(-min(rows.num_rows, stretch_rows or rows.num_rows) // rows.chunk_rows))
        self._source: StreamedRows | ResidentRows
        if resident == "none":
            self._source = StreamedRows(rows, staging, self._pool_chunks, threads)
        else:
            self._source = ResidentRows(rows, staging, threads, progress or Silent())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads and frees the memory; batches handed out before stay valid."""
        self._source.close()

    def batches(
        self, start: int = 0, sharing: Sharing | None = None, *, stop: int | None = None
    ) -> Generator[torch.Tensor]:
        """Batches `start`, `start + 1`, ... across epochs: (batch, d_in) bfloat16 on `device`.

        On a CUDA device, a batch belongs to the stream that is current when the batch is requested.

        Args:
            start: number of the first batch.
            sharing: the ranks of this machine that ask for the same batches. One decodes for all of them, unless the
                cache is kept in memory or needs no decoding.
            stop: number of a batch; nothing is read beyond the pool with the batch before it. None: there is no end.
        """
        source: StreamedRows | ResidentRows | SharedPools = self._source
        if sharing and isinstance(source, StreamedRows) and not self._rows.zero_copy:
            source = SharedPools(sharing, self._rows, self._pool_chunks, self._threads)
        missing, parts = self.batch_size, []
        sizes = self.num_rows, self._chunk_rows, self._pool_chunks
        upcoming = pools(*sizes, self.seed, start * self.batch_size, self._stretch_rows)
        if stop is not None:
            upcoming = first_pools(upcoming, (stop - start) * self.batch_size)
        with closing(source.load_pools(upcoming)) as loaded:
            for pool, rows in loaded:
                row = pool.skip
                while row < pool.num_rows:
                    end = min(row + missing, pool.num_rows)
                    parts.append(rows.take(row, end))
                    missing -= end - row
                    row = end
                    if missing == 0:
                        yield to_device(parts[0] if len(parts) == 1 else torch.cat(parts), self.device)
                        missing, parts = self.batch_size, []
