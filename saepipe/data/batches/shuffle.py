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


def pools(
    num_rows: int, chunk_rows: int, pool_chunks: int, seed: int, start: int, stretch_rows: int | None = None
) -> Iterator[Pool]:
    """Yields the endless sequence of pools, from row `start` of the stream on.

    Args:
        num_rows: rows in the cache; its last chunk may be partial.
        chunk_rows: rows per chunk.
        pool_chunks: chunks shuffled together.
        seed: seed of the order.
        start: number of rows at the front of the stream to leave out.
        stretch_rows: a whole number of chunks whose rows all come before those of the next stretch, in the order in
            which they are stored; None: the whole cache is one stretch.
    """
    epoch, skip = divmod(start, num_rows)
    while True:
        number = 0
        for chunks in _stretches(num_rows, chunk_rows, stretch_rows, seed, epoch):
            for first in range(0, len(chunks), pool_chunks):
                pool = _pool(chunks[first : first + pool_chunks], num_rows, chunk_rows, (seed, epoch, number), skip)
                if skip < pool.num_rows:
                    yield pool
                skip = max(0, skip - pool.num_rows)
                number += 1
        epoch += 1


def first_pools(endless: Iterator[Pool], num_rows: int) -> Iterator[Pool]:
    """Yields the pools that hold the next `num_rows` rows of a stream."""
    while num_rows > 0:
        pool = next(endless)
        yield pool
        num_rows -= pool.num_rows - pool.skip


def _stretches(num_rows: int, chunk_rows: int, stretch_rows: int | None, seed: int, epoch: int) -> Iterator[list[int]]:
    """Yields the chunks of each stretch of an epoch in random order."""
    num_chunks = -(-num_rows // chunk_rows)
    if stretch_rows is None:
        yield permutation(num_chunks, seed, epoch).tolist()
        return
    size = stretch_rows // chunk_rows
    for stretch, first in enumerate(range(0, num_chunks, size)):
        order = permutation(min(size, num_chunks - first), seed, epoch, stretch, 1)
        yield [first + chunk for chunk in order.tolist()]


def _pool(chunks: list[int], num_rows: int, chunk_rows: int, key: tuple[int, int, int], skip: int) -> Pool:
    """Returns the pool of some chunks; the cache's last one, which may be partial, goes to its end."""
    last = -(-num_rows // chunk_rows) - 1
    ordered = tuple(sorted(chunks, key=lambda chunk: chunk == last))  # so that it leaves no gap
    missing = (last + 1) * chunk_rows - num_rows if last in ordered else 0
    return Pool(*key, ordered, len(ordered) * chunk_rows - missing, skip)
