"""Small tensors that every step uses unchanged: made and sent to a device once, and never changed in place."""

from __future__ import annotations

from contextvars import ContextVar
from functools import lru_cache

import torch
from torch import Tensor

from saepipe.data.batches.staging_memory import to_device

TRACED: ContextVar[bool] = ContextVar("TRACED", default=False)
"""True while a step is traced, whose tensors have no values: then constants are operations of the trace."""


def constant(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns numbers as (num,), sent without waiting."""
    if TRACED.get():
        if not numbers:
            return torch.empty(0, dtype=dtype, device=device)
        return torch.stack([torch.full((), number, dtype=dtype, device=device) for number in numbers])
    return _sent(numbers, dtype, device)


def multiples(num: int, step: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns 0, step, ..., (num - 1) * step as (num,)."""
    return (_multiples if TRACED.get() else _kept_multiples)(num, step, dtype, device)


@lru_cache(maxsize=64)
def _sent(numbers: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    return to_device(torch.tensor(numbers, dtype=dtype), device)


def _multiples(num: int, step: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.arange(0, num * step, step, dtype=dtype, device=device)


_kept_multiples = lru_cache(maxsize=64)(_multiples)
