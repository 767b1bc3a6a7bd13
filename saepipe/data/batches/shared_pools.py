"""One stream of pools for all ranks of a machine: the first of them decodes into shared memory, and the others read.

Ranks go through the same pools, at most one apart. Who has no more use for them leaves; when the one that decodes
leaves, the others go on by themselves.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch._C._distributed_c10d import Store

from saepipe.data.batches.shuffle import Pool
from saepipe.data.batches.staging_memory import HostMemory, from_bits
from saepipe.data.batches.streamed import ShuffledRows, ShuffledViews, StreamedRows
from saepipe.data.cache.joined_rows import BatchRows

_POLL_SECONDS = 0.002
_LEFT = 2**40
"""Added to a counter by a rank that leaves."""
_SHARED_MEMORY = Path("/dev/shm")
_BUFFERS = ("0", "1")


@dataclass(frozen=True)
class Sharing:
    """The ranks of this machine that read one stream, and where they count the pools they have used."""

    store: Store
    """of all ranks of the command"""
    name: str
    """of the stream on this machine, in the store"""
    member: int
    """this rank among the members; member 0 decodes"""
    num_members: int

    def count(self, member: int, more: int = 0) -> int:
        """Adds to a member's number of pools, and returns it; member 0 counts those that it has decoded."""
        return int(self.store.add(f"{self.name}/{member}", more))

    def num_mapped(self, more: int = 0) -> int:
        """Adds to the number of members that have mapped the memory of member 0, and returns it."""
        return int(self.store.add(f"{self.name}/mapped", more))


class SharedMemory(HostMemory):
    """Two buffers in shared memory, filled again only when all members have used what is in them."""

    can_map = False

    def __init__(self, sharing: Sharing, buffers: list[torch.Tensor]) -> None:
        self._sharing, self._free = sharing, buffers
        self._num_fills = 0

    def empty(self, num_rows: int, d_in: int) -> torch.Tensor:
        buffer = self._free.pop(0)
        assert buffer.shape == (num_rows, d_in)
        return buffer

    def before_fill(self, memory: torch.Tensor) -> None:
        """Waits until the others have used the pool before the last, which is in this buffer."""
        for member in range(1, self._sharing.num_members):
            while self._sharing.count(member) < self._num_fills - 1:
                time.sleep(_POLL_SECONDS)
        self._num_fills += 1


class SharedPools:
    """The pools of a stream for one member; all members ask for the same ones."""

    def __init__(self, sharing: Sharing, rows: BatchRows, pool_chunks: int, threads: int) -> None:
        self._sharing, self._rows, self._pool_chunks, self._threads = sharing, rows, pool_chunks, threads
        self._shape = pool_chunks * rows.chunk_rows, rows.width

    def load_pools(self, pools: Iterator[Pool]) -> Generator[tuple[Pool, ShuffledRows | ShuffledViews]]:
        """Yields each pool with its rows; closing the generator lets this member leave."""
        try:
            yield from self._lead(pools) if self._sharing.member == 0 else self._follow(pools)
        finally:
            self._sharing.count(self._sharing.member, _LEFT)

    def _lead(self, pools: Iterator[Pool]) -> Generator[tuple[Pool, ShuffledRows | ShuffledViews]]:
        folder = Path(tempfile.mkdtemp(dir=_SHARED_MEMORY if _SHARED_MEMORY.is_dir() else None))
        try:
            buffers = [_allocated(folder / name, *self._shape) for name in _BUFFERS]
            self._sharing.store.set(f"{self._sharing.name}/folder", str(folder))
            for loaded in self._decoded(pools, SharedMemory(self._sharing, buffers)):
                self._sharing.count(0, 1)
                yield loaded
                if folder.exists() and self._sharing.num_mapped() == self._sharing.num_members - 1:
                    shutil.rmtree(folder)  # who has mapped the files keeps them, and no death can leave them behind
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            self._sharing.store.set(f"{self._sharing.name}/folder", "")
            yield from self._decoded(pools, HostMemory())
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _follow(self, pools: Iterator[Pool]) -> Generator[tuple[Pool, ShuffledRows | ShuffledViews]]:
        memory, buffers = HostMemory(), self._mapped()
        for number, pool in enumerate(pools):
            if not buffers or not self._await(number):
                yield from self._decoded(chain([pool], pools), memory)
                return
            yield pool, ShuffledRows(memory, buffers[number % len(buffers)], pool.order())
            self._sharing.count(self._sharing.member, 1)

    def _decoded(
        self, pools: Iterator[Pool], memory: HostMemory
    ) -> Generator[tuple[Pool, ShuffledRows | ShuffledViews]]:
        """Decodes the pools in this process."""
        source = StreamedRows(self._rows, memory, self._pool_chunks, self._threads)
        try:
            yield from source.load_pools(pools)
        finally:
            source.close()

    def _mapped(self) -> list[torch.Tensor]:
        """Returns the buffers of member 0; none if it has none, or has left."""
        key = f"{self._sharing.name}/folder"
        while not self._sharing.store.check([key]):
            time.sleep(_POLL_SECONDS)
        folder = self._sharing.store.get(key).decode()
        if not folder:
            return []
        try:
            buffers = [_mapped(Path(folder) / name, *self._shape) for name in _BUFFERS]
        except FileNotFoundError:
            return []
        self._sharing.num_mapped(1)
        return buffers

    def _await(self, number: int) -> bool:
        """Waits for a pool; returns False if member 0 has left before it."""
        while (count := self._sharing.count(0)) % _LEFT <= number:
            if count >= _LEFT:
                return False
            time.sleep(_POLL_SECONDS)
        return True


def _allocated(path: Path, num_rows: int, d_in: int) -> torch.Tensor:
    """Makes a file of bfloat16 rows that others can map; raises OSError if shared memory does not hold it.

    Its memory is reserved, since the system ends a process that writes to a page which it cannot have.
    """
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 * num_rows * d_in)
    return _mapped(path, num_rows, d_in)


def _mapped(path: Path, num_rows: int, d_in: int) -> torch.Tensor:
    """Maps a file of bfloat16 rows, (num_rows, d_in); all processes that map it see the same memory."""
    with path.open("r+b") as file:
        memory = mmap.mmap(file.fileno(), 2 * num_rows * d_in)
    return from_bits(np.frombuffer(memory, np.uint16).reshape(num_rows, d_in))
