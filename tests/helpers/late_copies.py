"""A stand-in for the copies to a CUDA device, on the CPU, that makes whatever may go wrong with them go wrong."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import torch

from saepipe.data.batches.staging_memory import Device


class LateCopies:
    """Copies are made as late as they may be: when one is waited for, or when what is computed must see them.

    So a pinned buffer that is written too early, or memory that is drawn from too early, holds wrong rows. Memory
    that is filled without `follow` since it was last drawn from is an AssertionError.
    """

    device = torch.device("cpu")

    def __init__(self, free: float = float("inf")) -> None:
        self.free = free
        self.most_pending = 0
        self._pending: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._may_fill: set[int] = set()
        self._lock = Lock()

    def free_bytes(self) -> float:
        return self.free

    def host_buffer(self, num_rows: int, d_in: int) -> torch.Tensor:
        return torch.empty(num_rows, d_in, dtype=torch.bfloat16)

    def follow(self, memory: torch.Tensor) -> None:
        self._may_fill.add(storage(memory))

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        assert storage(target) in self._may_fill, "a copy into memory that may still be read"
        entry = (source, target)
        with self._lock:
            self._pending.append(entry)
            self.most_pending = max(self.most_pending, len(self._pending))
        return lambda: self._make(entry)

    def lead(self) -> None:
        self._make(None)

    def upload(self, order: torch.Tensor) -> torch.Tensor:
        return order.clone()

    def drawn(self, memory: torch.Tensor) -> None:
        """`memory` is read by a kernel that may run at any later time."""
        self._may_fill.discard(storage(memory))

    def _make(self, last: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        """The copies begun, in order, up to `last`; all of them, if it is none."""
        with self._lock:
            if last is not None and not any(entry is last for entry in self._pending):
                return
            while self._pending:
                source, target = entry = self._pending.pop(0)
                target.copy_(source)
                if entry is last:
                    return


class LateDevice(Device):
    """The place on a device, its memory filled by LateCopies, new memory full of a value that no cache holds."""

    GARBAGE = -12345.0

    def __init__(self, copies: LateCopies, chunk_rows: int, d_in: int, num_buffers: int) -> None:
        super().__init__(copies, chunk_rows, d_in, num_buffers)
        self._copies = copies

    def empty(self, num_rows: int, d_in: int) -> torch.Tensor:
        return super().empty(num_rows, d_in).fill_(self.GARBAGE)

    def draw(self, memory: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        self._copies.drawn(memory)
        return super().draw(memory, index)


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
