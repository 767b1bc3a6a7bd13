"""One large array used again at each step."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

_kept = threading.local()


def workspace(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """An array whose contents mean nothing; on a CPU the thread's last one, where it had this shape.

    The C library returns arrays above 32 MiB to the kernel when they are freed, and getting new pages for one costs
    more than a pass over it. CUDA has torch's allocator, which keeps its own.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    last: Tensor | None = getattr(_kept, "array", None)
    if last is None or last.shape != shape or last.dtype != dtype:
        last = _kept.array = torch.empty(shape, dtype=dtype)
    return last
