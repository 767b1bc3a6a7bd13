"""A CPU stand-in for copies to a CUDA device, which exposes mistakes in their ordering."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Lock

import torch

from saepipe.data.batches.staging_memory import CudaMemory


class LateCopies:
    """A side stream that makes each copy as late as possible: when it is waited for, or when kernels must see it.

    So a pinned buffer that is refilled too early, or memory that is gathered from too early, holds wrong rows. Filling
    memory without `copy_after_compute` after it was last gathered from is an AssertionError.
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

    def copy_after_compute(self, memory: torch.Tensor) -> None:
        self._may_fill.add(storage(memory))

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        assert storage(target) in self._may_fill, "a copy into memory that may still be read"
        entry = (source, target)
        with self._lock:
            self._pending.append(entry)
            self.most_pending = max(self.most_pending, len(self._pending))
        return lambda: self._copy_pending(entry)

    def compute_after_copies(self) -> None:
        self._copy_pending(None)

    def upload(self, order: torch.Tensor) -> torch.Tensor:
        return order.clone()

    def download(self, tensors: Mapping[str, torch.Tensor]) -> Callable[[], dict[str, torch.Tensor]]:
        return lambda: {name: tensor.clone() for name, tensor in tensors.items()}

    def read(self, memory: torch.Tensor) -> None:
        """Notes that `memory` is read by a kernel, which may run at any later time."""
        self._may_fill.discard(storage(memory))

    def _copy_pending(self, last: tuple[torch.Tensor, torch.Tensor] | None) -> None:
        """Makes the pending copies in order, up to `last`; all of them if it is None."""
        with self._lock:
            if last is not None and not any(entry is last for entry in self._pending):
                return
            while self._pending:
                source, target = entry = self._pending.pop(0)
                target.copy_(source)
                if entry is last:
                    return


class LateMemory(CudaMemory):
    """Staging memory filled by LateCopies; new memory is full of a value that no cache holds."""

    GARBAGE = -12345.0

    def __init__(self, copies: LateCopies, chunk_rows: int, d_in: int, num_buffers: int) -> None:
        super().__init__(copies, chunk_rows, d_in, num_buffers)
        self._copies = copies

    def empty(self, num_rows: int, d_in: int) -> torch.Tensor:
        return super().empty(num_rows, d_in).fill_(self.GARBAGE)

    def gather(self, memory: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
        self._copies.read(memory)
        return super().gather(memory, index)


def storage(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
