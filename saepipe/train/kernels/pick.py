"""Choice of the kernels for a device, made here only."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Protocol

import torch
from torch import Tensor

from saepipe.data.errors import MachineError
from saepipe.train.kernels import cpu, reference
from saepipe.train.kernels.pattern import Pattern


class Kernels(Protocol):
    """One function per operation; `reference` defines what each computes."""

    def decode(self, pattern: Pattern, values: Tensor, W: Tensor) -> Tensor: ...
    def decode_t(self, pattern: Pattern, values: Tensor, A: Tensor) -> Tensor: ...
    def sampled(self, pattern: Pattern, A: Tensor, W: Tensor) -> Tensor: ...
    def column_sums(self, pattern: Pattern, values: Tensor) -> Tensor: ...


OPERATORS: ContextVar[Kernels | None] = ContextVar("OPERATORS", default=None)
"""`operators` while a step is traced, which can record no launch of a kernel."""


def kernels_for(device: torch.device, dtype: torch.dtype) -> Kernels:
    """Returns the fastest kernels for a device; `reference` for float64, which only tests use, and for other devices.

    Raises:
        MachineError: on CUDA without Triton, where `reference` would silently be slower than a dense step.
    """
    if (operators := OPERATORS.get()) is not None:
        return operators
    if dtype == torch.float64:
        return reference
    if device.type == "cpu":
        return cpu
    return _on_cuda() if device.type == "cuda" else reference


def _on_cuda() -> Kernels:
    try:
        from saepipe.train.kernels import triton_ops  # not at the top: a CPU does without Triton
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        hint = "install triton (torch's CUDA wheels for Linux bring it), or set `sparse_steps: never`"
        raise MachineError("sparse steps on CUDA need Triton, which is not installed", hint=hint) from error
    return triton_ops
