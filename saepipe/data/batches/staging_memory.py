"""Memory in which decoded rows wait to be gathered into batches: that of this process, or that of a CUDA device.

A StagingMemory decodes chunks into its tensors from any thread, and gathers rows from them. On the CPU that is all. On
a device, a chunk is decoded into one of a few pinned buffers and copied from there on a separate stream
(`side_stream.py`), so `before_fill` must precede a new fill, and `after_fill` must come between fills and gathers.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

import numpy as np
import torch

from saepipe.data.batches.memory import free_ram
from saepipe.data.batches.side_stream import SideStream, upload
from saepipe.data.cache.joined_rows import BatchRows


class StagingMemory(Protocol):
    """Memory for bfloat16 rows, each (d_in,)."""

    name: str
    can_map: bool
    """True if rows may be gathered directly from mapped files that are stored uncompressed."""

    def free_bytes(self) -> float:
        """Number of bytes available."""

    def empty(self, num_rows: int, d_in: int) -> torch.Tensor:
        """Allocates a tensor, (num_rows, d_in)."""

    def before_fill(self, memory: torch.Tensor) -> None:
        """Prepares `memory` for fills, so that they cannot change batches gathered from it earlier."""

    def fill(self, rows: BatchRows, chunk: int, out: torch.Tensor) -> None:
        """Decodes a chunk into `out`, (chunk_rows, d_in); raises CorruptDataError. Any thread may call it."""

    def after_fill(self) -> None:
        """Orders later gathers after the fills made so far."""

    def upload_index(self, order: torch.Tensor) -> torch.Tensor:
        """Converts `order`, int64, into an index for `gather`."""

    def gather(self, memory: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """Copies the rows `index` into a new tensor, (len(index), d_in)."""


def staging_memory(device: torch.device, rows: BatchRows, threads: int) -> StagingMemory:
    """Returns CUDA memory for chunks of `rows` decoded by `threads` threads, or host RAM if `device` is not CUDA."""
    if device.type != "cuda":
        return HostMemory()
    return CudaMemory(SideStream(device), rows.chunk_rows, rows.width, 2 * threads)


class HostMemory:
    """The memory of this process."""

    name = "RAM"
    can_map = True

    def free_bytes(self) -> float:
        return free_ram()

    def empty(self, num_rows: int, d_in: int) -> torch.Tensor:
        # By numpy, which asks the kernel for huge pages; torch does not.
        return from_bits(np.empty((num_rows, d_in), np.uint16))

    def before_fill(self, memory: torch.Tensor) -> None:
        pass

    def fill(self, rows: BatchRows, chunk: int, out: torch.Tensor) -> None:
        rows.read_chunk(chunk, to_bits(out))

    def after_fill(self) -> None:
        pass

    def upload_index(self, order: torch.Tensor) -> torch.Tensor:
        return order

    def gather(self, memory: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        # By numpy, on this thread alone: the other cores are decoding the next pool.
        return from_bits(np.take(to_bits(memory), index.numpy(), axis=0))


class CudaMemory:
    """The memory of a CUDA device, filled through pinned buffers."""

    can_map = False

    def __init__(self, side: SideStream, chunk_rows: int, d_in: int, num_buffers: int) -> None:
        """
        Args:
            side: the stream for copies of chunks.
            chunk_rows: rows per chunk.
            d_in: channels.
            num_buffers: chunks in flight at a time; with two per thread, one is decoded while the other is copied.
        """
        self.name = str(side.device)
        self._side = side
        self._idle: SimpleQueue[tuple[torch.Tensor, Callable[[], None]]] = SimpleQueue()
        for _ in range(num_buffers):
            self._idle.put((side.host_buffer(chunk_rows, d_in), lambda: None))

    def free_bytes(self) -> float:
        return self._side.free_bytes()

    def empty(self, num_rows: int, d_in: int) -> torch.Tensor:
        return torch.empty(num_rows, d_in, dtype=torch.bfloat16, device=self._side.device)

    def before_fill(self, memory: torch.Tensor) -> None:
        self._side.copy_after_compute(memory)

    def fill(self, rows: BatchRows, chunk: int, out: torch.Tensor) -> None:
        buffer, wait_for_copy = self._idle.get()
        try:
            wait_for_copy()
            rows.read_chunk(chunk, to_bits(buffer))
            wait_for_copy = self._side.copy(buffer, out)
        finally:
            self._idle.put((buffer, wait_for_copy))

    def after_fill(self) -> None:
        self._side.compute_after_copies()

    def upload_index(self, order: torch.Tensor) -> torch.Tensor:
        return self._side.upload(order)

    def gather(self, memory: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return memory.index_select(0, index)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Moves `tensor` to the device without making the host wait; returns it unchanged if it is there already."""
    if tensor.device.type == device.type:
        return tensor
    return upload(tensor, device) if device.type == "cuda" else tensor.to(device)


def from_bits(bits: np.ndarray) -> torch.Tensor:
    """Views uint16 bits as a bfloat16 tensor, without a copy."""
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def to_bits(memory: torch.Tensor) -> np.ndarray:
    """Views a bfloat16 tensor on the CPU as its uint16 bits, without a copy."""
    bits: np.ndarray = memory.view(torch.int16).numpy().view(np.uint16)
    return bits
