"""Copies to a CUDA device on a stream of their own: all of the loader's streams, events and pinned memory.

Two orders keep a copy from meeting a kernel. `follow` before memory is filled again: the copies wait for the kernels
that read it. `lead` before it is read: the kernels wait for the copies. Neither makes the host wait. A pinned buffer
is the host's, so the host waits for its copy before it writes there again.
"""

from __future__ import annotations

from collections.abc import Callable

import torch


class SideStream:
    """A stream of copies beside the one that computes."""

    def __init__(self, device: torch.device) -> None:
        """`device` is a CUDA device."""
        self._copies = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.device: torch.device = self._copies.device  # with its number: other threads have another current device

    def free_bytes(self) -> int:
        """Of the device's memory, with what torch holds there and does not use."""
        idle = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return torch.cuda.mem_get_info(self.device)[0] + idle

    def host_buffer(self, num_rows: int, d_in: int) -> torch.Tensor:
        """Pinned memory, which a copy can be made from while the host goes on; (num_rows, d_in) bfloat16."""
        return torch.empty(num_rows, d_in, dtype=torch.bfloat16, pin_memory=True)

    def follow(self, memory: torch.Tensor) -> None:
        """Copies into `memory` come after all that the current stream has been given."""
        self._copies.wait_stream(torch.cuda.current_stream(self.device))
        # If `memory` is freed, the allocator must not hand it out before its last copy has been made.
        memory.record_stream(self._copies)

    def copy(self, source: torch.Tensor, target: torch.Tensor) -> Callable[[], None]:
        """Begins a copy from pinned memory; the function returned waits for its end. Any thread may call it."""
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)
            done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            done.record(self._copies)
        return done.synchronize

    def lead(self) -> None:
        """What the current stream is given from now on comes after all copies begun."""
        torch.cuda.current_stream(self.device).wait_stream(self._copies)

    def upload(self, order: torch.Tensor) -> torch.Tensor:
        """A small tensor, copied on the current stream."""
        return upload(order, self.device)


def upload(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor`, from the CPU, copied to a CUDA device on the current stream without making the host wait."""
    return tensor.pin_memory().to(device, non_blocking=True)
