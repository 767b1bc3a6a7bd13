"""Configuration of the C library's allocator: training steps allocate the same arrays again and again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
NEVER, ONE_GIB = -1, 1 << 30


def keep_freed_memory() -> bool:
    """Makes glibc reuse freed memory for arrays of up to 1 GiB, for the rest of the process.

    By default glibc returns large freed arrays to the kernel, and each page of the next array faults and is filled with
    zeros. An addition of arrays of 2048 x 4096 floats then takes several times as long (`python bench/overhead.py`).
    CUDA memory is not affected, since torch manages it.

    Returns:
        Whether it succeeded; False with another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, ONE_GIB) and mallopt(M_TRIM_THRESHOLD, NEVER))
