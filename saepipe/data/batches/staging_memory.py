"""Where decoded rows wait to be drawn: the memory of this process, or that of a CUDA device.

A place decodes chunks into its memory from any thread, and draws rows from it. On the CPU that is all. On a device a
chunk is decoded into one of a few pinned buffers and copied from there on a stream of its own (`side_stream.py`), so
`claim` must come before memory is filled again and `settle` between filling it and drawing from it.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

import numpy as np
import torch

from saepipe.data.batches.memory import free_ram
from saepipe.data.batches.side_stream import SideStream, upload
from saepipe.data.cache.mapped_rows import MappedRows


class Place(Protocol):
    """Memory for bfloat16 rows, each (d_in,)."""

    name: str
    maps: bool
    """Whether rows may be drawn from the mapped files, where they are stored uncompressed."""

    def free_bytes(self) -> float:
        """How much it could hold."""

    def empty(self, num_rows: int, d_in: int) -> torch.Tensor:
        """New memory, (num_rows, d_in)."""

    def claim(self, memory: torch.Tensor) -> None:
        """`memory` is about to be filled: all that was drawn from it stays what it is."""

    def fill(self, rows: MappedRows, chunk: int, out: torch.Tensor) -> None:
        """Decodes a chunk into `out`, (chunk_rows, d_in); raises CorruptDataError. Any thread may call it."""

    def settle(self) -> None:
        """What was filled is about to be drawn from."""

    def index(self, order: torch.Tensor) -> torch.Tensor:
        """`order`, int64, as `draw` wants it."""

    def draw(self, memory: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        """The rows `index`, (len(index), d_in), in memory of their own."""


def place_of(device: torch.device, rows: MappedRows, threads: int) -> Place:
    """That of `device`, for chunks of `rows` that `threads` decode; the CPU's, where it is no CUDA device."""
    if device.type != "cuda":
        return Host()
    return Device(SideStream(device), rows.chunk_rows, rows.array.row_shape[0], 2 * threads)


class Host:
    """The memory of this process."""

    name = "RAM"
    maps = True

    def free_bytes(self) -> float:
        return free_ram()

    def empty(self, num_rows: int, d_in: int) -> torch.Tensor:
        # By numpy: it asks the kernel for huge pages, which torch does not.
        return from_bits(np.empty((num_rows, d_in), np.uint16))

    def claim(self, memory: torch.Tensor) -> None:
        pass

    def fill(self, rows: MappedRows, chunk: int, out: torch.Tensor) -> None:
        rows.read_chunk(chunk, bits_of(out))

    def settle(self) -> None:
        pass

    def index(self, order: torch.Tensor) -> torch.Tensor:
        return order

    def draw(self, memory: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        # By numpy, on this thread alone: the other cores are decoding the next pool.
        return from_bits(np.take(bits_of(memory), index.numpy(), axis=0))


class Device:
    """The memory of a CUDA device, filled through pinned buffers."""

    maps = False

    def __init__(self, side: SideStream, chunk_rows: int, d_in: int, num_buffers: int) -> None:
        """
        Args:
            side: the stream that chunks are copied on.
            chunk_rows: rows a chunk.
            d_in: channels.
            num_buffers: chunks on their way at a time; with two a thread, one is decoded while one is copied.
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

    def claim(self, memory: torch.Tensor) -> None:
        self._side.follow(memory)

    def fill(self, rows: MappedRows, chunk: int, out: torch.Tensor) -> None:
        buffer, copied = self._idle.get()
        try:
            copied()
            rows.read_chunk(chunk, bits_of(buffer))
            copied = self._side.copy(buffer, out)
        finally:
            self._idle.put((buffer, copied))

    def settle(self) -> None:
        self._side.lead()

    def index(self, order: torch.Tensor) -> torch.Tensor:
        return self._side.upload(order)

    def draw(self, memory: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        return memory.index_select(0, index)


def deliver(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on the device, without making the host wait: as it is, if it lies there already."""
    if tensor.device.type == device.type:
        return tensor
    return upload(tensor, device) if device.type == "cuda" else tensor.to(device)


def from_bits(bits: np.ndarray) -> torch.Tensor:
    """uint16 bits as the bfloat16 tensor that they are, without a copy."""
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)


def bits_of(memory: torch.Tensor) -> np.ndarray:
    """A bfloat16 tensor on the CPU as its uint16 bits, without a copy."""
    bits: np.ndarray = memory.view(torch.int16).numpy().view(np.uint16)
    return bits
