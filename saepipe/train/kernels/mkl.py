"""Kernels on a CPU: torch's sparse CSR products, which call MKL. One thread sums each row, so bits repeat."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern


def decode(pattern: Pattern, values: Tensor, W: Tensor) -> Tensor:
    return _csr(pattern.row_starts, pattern.columns, values, pattern.num_columns) @ W.float()


def decode_t(pattern: Pattern, values: Tensor, A: Tensor) -> Tensor:
    index = pattern.by_column
    return _csr(index.starts, index.rows, values[index.order], pattern.num_rows) @ A.float()


def sampled(pattern: Pattern, A: Tensor, W: Tensor) -> Tensor:
    entries = _csr(pattern.row_starts, pattern.columns, A.new_zeros(pattern.num_entries), pattern.num_columns)
    return torch.sparse.sampled_addmm(entries, A.float(), W.float().T, beta=0.0).values()


def column_sums(pattern: Pattern, values: Tensor) -> Tensor:
    return decode_t(pattern, values, values.new_ones(pattern.num_rows, 1)).squeeze(1)


def _csr(starts: Tensor, columns: Tensor, values: Tensor, num_columns: int) -> Tensor:
    """Returns a float32 matrix in torch's sparse CSR layout, unchecked, as a Pattern's index is always valid."""
    shape = (len(starts) - 1, num_columns)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values.float(), shape, check_invariants=False)
