"""The order of a stream of rows: permutations and pools that are pure functions of their keys."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch


def permutation(size: int, *key: int) -> torch.Tensor:
    """A permutation of range(size) that depends on `key` alone; int64 (size,)."""
    state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    return torch.randperm(size, generator=generator)


@dataclass(frozen=True)
class Pool:
    """Chunks of one epoch that are shuffled together."""

    seed: int
    epoch: int
    number: int
    chunks: tuple[int, ...]
    num_rows: int
    skip: int
    """Number of rows at the front of the permuted order to leave out, because the stream starts later."""

    def order(self) -> torch.Tensor:
        """Permuted order of the pool's rows, numbered through its chunks; int64 (num_rows,)."""
        return permutation(self.num_rows, self.seed, self.epoch, self.number)


def pools(num_rows: int, chunk_rows: int, pool_chunks: int, seed: int, start: int) -> Iterator[Pool]:
    """Yields the endless sequence of pools, from row `start` of the stream on.

    Args:
        num_rows: rows in the cache; its last chunk may be partial.
        chunk_rows: rows per chunk.
        pool_chunks: chunks shuffled together.
        seed: seed of the order.
        start: number of rows at the front of the stream to leave out.
    """
    num_chunks = -(-num_rows // chunk_rows)
    epoch, skip = divmod(start, num_rows)
    while True:
        order = permutation(num_chunks, seed, epoch).tolist()
        for number, first in enumerate(range(0, num_chunks, pool_chunks)):
            # The chunk that may be partial goes to the end of its pool, where it leaves no gap.
            chunks = tuple(sorted(order[first : first + pool_chunks], key=lambda chunk: chunk == num_chunks - 1))
            last = num_rows - (num_chunks - 1) * chunk_rows
            size = sum(last if chunk == num_chunks - 1 else chunk_rows for chunk in chunks)
            if skip < size:
                yield Pool(seed, epoch, number, chunks, size, skip)
            skip = max(0, skip - size)
        epoch += 1
