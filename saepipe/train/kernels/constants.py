"""Small tensors that every step uses unchanged: made and sent to a device once, and never changed in place."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from saepipe.data.batches.staging_memory import to_device


@lru_cache(maxsize=64)
def constant(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns numbers as (num,), sent without waiting."""
    return to_device(torch.tensor(numbers, dtype=dtype), device)


@lru_cache(maxsize=64)
def multiples(num: int, step: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns 0, step, ..., (num - 1) * step as (num,)."""
    return torch.arange(0, num * step, step, dtype=dtype, device=device)
