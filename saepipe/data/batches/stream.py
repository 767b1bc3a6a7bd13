"""Shuffled batches from a cache: an endless stream whose batch n is a pure function of (cache, batch size, seed, n).

An epoch's order of chunks is cut into disjoint pools, and each pool's rows are permuted by (seed, epoch, pool). So a
stream that is resumed needs one integer, every variant sees the same batches, and reading stays sequential within
chunks (random rows through a compressed array cost over 400 times as much: `bench/cache.py`). Where the rows wait to
be drawn, in buffers that are decoded a pool ahead or all in memory, changes no batch.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from typing import Self

import torch

from saepipe.data.batches.memory import Resident, check_resident
from saepipe.data.batches.resident import ResidentRows
from saepipe.data.batches.shuffle import pools
from saepipe.data.batches.staging_memory import deliver, place_of
from saepipe.data.batches.streamed import Streamed
from saepipe.data.cache.cache import Cache
from saepipe.data.terminal.progress import Progress, Silent

CPU = torch.device("cpu")


class BatchStream:
    """Batches of raw activations at one hook."""

    def __init__(
        self,
        cache: Cache,
        hook: str,
        batch_size: int,
        seed: int,
        *,
        device: torch.device = CPU,
        resident: Resident = "none",
        pool_chunks: int = 64,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Opens the stream; with `resident`, decodes the whole cache first.

        Args:
            cache: a finished cache.
            hook: which of its hooks.
            batch_size: rows a batch.
            seed: of the order; the same batches come for the same seed.
            device: where batches are wanted.
            resident: `ram` or `gpu` keep all rows in that memory; `none` decodes a pool ahead.
            pool_chunks: chunks shuffled together; streamed, two pools are in memory at a time.
            threads: decoders; as many as cores, up to 4, by default.
            progress: told of the decoding of a resident cache.

        Raises:
            ConfigError: if the cache has no such hook, or `gpu` is asked for and the device is none.
            OutOfSpaceError: if a resident cache does not fit; before anything is decoded.
            CorruptDataError: naming the shard, if its bytes are not what was written (streamed: by `batches`).
        """
        check_resident(resident, device)
        rows = cache.rows(hook)
        threads = threads or min(4, os.cpu_count() or 1)
        place = place_of(CPU if resident == "ram" else device, rows, threads)
        self.num_rows = rows.num_rows
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self._chunk_rows, self._pool_chunks = rows.chunk_rows, min(pool_chunks, rows.num_chunks)
        self._source: Streamed | ResidentRows
        if resident == "none":
            self._source = Streamed(rows, place, self._pool_chunks, threads)
        else:
            self._source = ResidentRows(rows, place, threads, progress or Silent())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stops the threads and lets the memory go; batches already handed out stay valid."""
        self._source.close()

    def batches(self, start: int = 0) -> Iterator[torch.Tensor]:
        """Batches `start`, `start + 1`, ... without end, across epochs: (batch, d_in) bfloat16 on `device`.

        On a CUDA device they belong to the stream that is current when they are asked for.
        """
        wanted, parts = self.batch_size, []
        coming = pools(self.num_rows, self._chunk_rows, self._pool_chunks, self.seed, start * self.batch_size)
        with closing(self._source.loaded(coming)) as loaded:
            for pool, rows in loaded:
                at = pool.skip
                while at < pool.num_rows:
                    stop = min(at + wanted, pool.num_rows)
                    parts.append(rows.take(at, stop))
                    wanted -= stop - at
                    at = stop
                    if wanted == 0:
                        yield deliver(parts[0] if len(parts) == 1 else torch.cat(parts), self.device)
                        wanted, parts = self.batch_size, []
