"""Kernels of a sparse step, each on its device, and test cases for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.lib import NumpyVersion
from torch import Tensor

from saepipe.train.kernels import cpu, reference
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import Kernels


def kernels_on(name: str) -> tuple[Kernels, str]:
    """Returns `reference`, `cpu` or `triton` and its device; without a GPU, Triton is interpreted on the CPU."""
    if name != "triton":
        return {"reference": reference, "cpu": cpu}[name], "cpu"
    triton = pytest.importorskip("triton", reason="Triton has wheels for Linux only")
    on_gpu = torch.cuda.is_available()
    if not on_gpu and NumpyVersion(triton.__version__) < "3.7.0" and NumpyVersion(np.__version__) >= "2.4.0":
        pytest.skip("the interpreter of Triton before 3.7 needs NumPy before 2.4")
    from saepipe.train.kernels import triton_ops

    return triton_ops, "cuda" if on_gpu else "cpu"


@dataclass(frozen=True)
class Case:
    """A pattern and its operands."""

    pattern: Pattern
    values: Tensor  # (num_entries,)
    A: Tensor  # (num_rows, n)
    W: Tensor  # (num_columns, n)

    @classmethod
    def of(cls, mask: Tensor, n: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Case:
        """Returns a case for the entries of `mask` (num_rows, num_columns), with normal numbers from a fixed seed."""
        rng = torch.Generator().manual_seed(1)
        randn = lambda *shape: torch.randn(*shape, generator=rng).to(device, dtype)  # noqa: E731
        pattern = Pattern.of_mask(mask.to(device))
        return cls(pattern, randn(pattern.num_entries), randn(pattern.num_rows, n), randn(pattern.num_columns, n))


def random_mask(num_rows: int, num_columns: int, density: float) -> Tensor:
    return torch.rand(num_rows, num_columns, generator=torch.Generator().manual_seed(2)) < density
