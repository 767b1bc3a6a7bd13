"""Configuration of the C library's allocator: training steps allocate the same arrays again and again."""

from __future__ import annotations

import ctypes
import os

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
NEVER = -1
REUSED_BYTES = 64 << 20
"""Largest array that reuses freed memory."""


def keep_freed_memory() -> bool:
    """Makes glibc reuse freed memory for arrays of up to 64 MiB, for the rest of the process.

    By default glibc returns large freed arrays to the kernel, and each page of the next array faults and is filled with
    zeros. An addition of arrays of 2048 x 4096 floats then takes several times as long (`python bench/overhead.py`).
    But the heap then grows to two or three times what is in use (seen with glibc 2.36; an aligned array seems not to
    fit the hole that one of its size left), which only smaller arrays may do. Larger ones are returned, and get pages
    of 2 MiB if the kernel has them, which fault 512 times less often; torch reads that setting at its first array.
    CUDA memory is not affected, since torch manages it.

    Returns:
        Whether it succeeded; False with another C library.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, REUSED_BYTES) and mallopt(M_TRIM_THRESHOLD, NEVER))


def return_freed_memory() -> None:
    """Gives the memory that was kept back to the system, where the C library can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
