"""The kernels of a sparse step, each on the device that it is for, and what they are tried on."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from saepipe.train.kernels import mkl, reference
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import Kernels


def kernels_on(name: str) -> tuple[Kernels, str]:
    """`reference`, `mkl` or `triton`, and its device: Triton's is a CPU where there is no GPU, interpreted."""
    if name != "triton":
        return {"reference": reference, "mkl": mkl}[name], "cpu"
    pytest.importorskip("triton", reason="Triton has wheels for Linux only")
    from saepipe.train.kernels import triton_ops

    return triton_ops, "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Case:
    """A pattern and what it is multiplied with."""

    pattern: Pattern
    values: Tensor  # (num_entries,)
    A: Tensor  # (num_rows, n)
    W: Tensor  # (num_columns, n)

    @classmethod
    def of(cls, mask: Tensor, n: int, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Case:
        """Normal numbers from a seed, for the entries of `mask` (num_rows, num_columns)."""
        rng = torch.Generator().manual_seed(1)
        draw = lambda *shape: torch.randn(*shape, generator=rng).to(device, dtype)  # noqa: E731
        pattern = Pattern.of_mask(mask.to(device))
        return cls(pattern, draw(pattern.num_entries), draw(pattern.num_rows, n), draw(pattern.num_columns, n))


def random_mask(num_rows: int, num_columns: int, density: float) -> Tensor:
    return torch.rand(num_rows, num_columns, generator=torch.Generator().manual_seed(2)) < density
