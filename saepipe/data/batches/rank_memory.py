"""Memory that one rank of a command needs, of its host and of its device, beside what is free of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch

from saepipe.data.batches.memory import free_ram
from saepipe.data.terminal.display import readable_bytes

PROGRAM = 350_000_000
"""Bytes of the program itself, with its libraries."""

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5)


@dataclass(frozen=True)
class RankMemory:
    """Bytes that one rank needs at its peak, and bytes that are free here now."""

    host: int
    """of the host, with the program; of a CUDA rank without what the driver maps"""
    device: int
    """of a CUDA device; 0 on a CPU"""
    free_host: int
    free_device: int

    @classmethod
    def of(cls, device: torch.device, *, host: int, on_device: int) -> Self:
        """Adds up what is the host's in any case and what lies on the device, which on a CPU is the host's too."""
        if device.type == "cuda":
            return cls(host, on_device, int(free_ram()), torch.cuda.mem_get_info(device)[0])
        return cls(host + on_device, 0, int(free_ram()), 0)

    def fits(self, num_ranks: int = 1) -> bool:
        """Returns whether so many ranks fit on this machine now, with a device each."""
        return num_ranks * self.host <= self.free_host and self.device <= self.free_device

    def sentence(self) -> str:
        """`1.2 GB of the host's memory (20 GB free)`, and of the device's."""
        host = f"{readable_bytes(self.host)} of the host's memory ({readable_bytes(self.free_host)} free)"
        if not self.device:
            return host
        return f"{host}, {readable_bytes(self.device)} of the device's ({readable_bytes(self.free_device)} free)"


@dataclass
class Measured:
    """Peak of this process's memory, in bytes."""

    host: int = 0
    device: int = 0


@contextmanager
def measured_memory(device: torch.device) -> Iterator[Measured]:
    """Measures the peak of this process while the block runs: resident pages, on Linux, and memory of a CUDA device.

    Where the kernel does not let the peak be reset, that since the process began counts.
    """
    measured = Measured()
    with suppress(OSError):
        CLEAR_REFS.write_text(_RESET_PEAK)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield measured
    measured.host = resident_peak()
    if device.type == "cuda":
        measured.device = torch.cuda.max_memory_allocated(device)


def resident_peak() -> int:
    """Returns the peak of this process's resident memory in bytes; that of the program where the kernel says none."""
    lines = STATUS.read_text().splitlines() if STATUS.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM")), PROGRAM)
