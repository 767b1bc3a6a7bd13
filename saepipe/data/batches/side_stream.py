"""Copies to and from a CUDA device on a separate stream: all streams, events and pinned memory of loader and harvest.

Two orderings keep copies and kernels apart, without making the host wait. Before memory is filled again,
`copy_after_compute` makes copies wait for the kernels that read it. Before it is read, `compute_after_copies` makes
kernels wait for the copies. A pinned buffer is host memory, so the host itself waits for its copy before refilling it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch


class SideStream:
    """A stream for copies, beside the current stream, which computes."""

    def __init__(self, device: torch.device) -> None:
        """`device` must be a CUDA device."""
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.device: torch.device = self._copies.device  # with its number: other threads have another current device

    def free_bytes(self) -> int:
        """Free memory of the device, including memory that torch has reserved but does not use."""
        idle = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + idle

    def host_buffer(self, num_rows: int, d_in: int) -> torch.Tensor:
        """Allocates pinned memory, from which copies run in the background; (num_rows, d_in) bfloat16."""
        return torch.empty(num_rows, d_in, dtype=torch.bfloat16, pin_memory=True)

    def copy_after_compute(self, memory: torch.Tensor) -> None:
        """Orders later copies into `memory` after all work already queued on the current stream."""
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        # If `memory` is freed, the allocator must not reuse it before its last copy is done.
        memory.record_stream(self._copies)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        """Starts a copy from pinned memory; returns a function that waits for it. Any thread may call it."""
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            done.record(self._copies)
        return done.synchronize

    def download(self, tensors: Mapping[str, torch.Tensor]) -> Callable[[], dict[str, torch.Tensor]]:
        """Starts copies into pinned memory of what the current stream computes; returns a function that waits for them.

        torch keeps pinned memory for the next call once neither a copy nor a tensor uses it.
        """
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        copies = {}
        with torch.cuda.stream(self._copies):
            for name, tensor in tensors.items():
                copies[name] = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
                copies[name].copy_(tensor, non_blocking=True)
                tensor.record_stream(self._copies)  # its memory must not be reused before the copy is done
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            done.record(self._copies)

        def wait() -> dict[str, torch.Tensor]:
            done.synchronize()
            return copies

        return wait

    def compute_after_copies(self) -> None:
        """Orders later work on the current stream after all copies started so far."""
        torch.cuda.current_stream(self.device).wait_stream(self._copies)

    def upload(self, order: torch.Tensor) -> torch.Tensor:
        """Copies a small tensor to the device on the current stream."""
        return upload(order, self.device)


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copies a CPU tensor to a CUDA device on the current stream, without making the host wait."""
    return tensor.pin_memory().to(device, non_blocking=True)
