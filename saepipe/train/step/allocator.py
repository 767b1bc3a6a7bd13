"""The C library's allocator, told to keep what is freed: a training step asks for the same arrays again and again."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of the GNU C library
NEVER, ONE_GIB = -1, 1 << 30


def keep_freed_memory() -> bool:
    """Arrays of up to 1 GiB come from memory that this process freed before, for as long as it lives.

    glibc gives large arrays back to the kernel when they are freed, and each page of the next one is a fault and is
    filled with zeros. An addition of arrays of 2048 x 4096 floats then takes several times as long
    (`python bench/overhead.py`). CUDA memory is torch's own and has nothing to do with it.

    Returns:
        Whether it was done; not where there is another C library.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, ONE_GIB) and mallopt(M_TRIM_THRESHOLD, NEVER))
