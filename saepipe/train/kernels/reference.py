"""Definition of each kernel in plain PyTorch: slow and simple, and the fast kernels must agree with it.

An entry e has row r, column c and value v. `values` (num_entries,) and the dense arrays are float32 or bfloat16; sums
and results are float32, or float64 for float64 inputs, which the gradient tests use.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern


def decode(pattern: Pattern, values: Tensor, W: Tensor) -> Tensor:
    """out[r] = sum over entries of row r of v W[c]; W (num_columns, n) -> (num_rows, n)."""
    terms = _wide(values).unsqueeze(1) * _wide(W[pattern.columns])
    return terms.new_zeros(pattern.num_rows, W.shape[1]).index_add_(0, pattern.rows, terms)


def decode_t(pattern: Pattern, values: Tensor, A: Tensor) -> Tensor:
    """out[c] = sum over entries of column c of v A[r]; A (num_rows, n) -> (num_columns, n)."""
    terms = _wide(values).unsqueeze(1) * _wide(A[pattern.rows])
    return terms.new_zeros(pattern.num_columns, A.shape[1]).index_add_(0, pattern.columns, terms)


def sampled(pattern: Pattern, A: Tensor, W: Tensor) -> Tensor:
    """out[e] = A[r] . W[c]; A (num_rows, n), W (num_columns, n) -> (num_entries,)."""
    return (_wide(A[pattern.rows]) * _wide(W[pattern.columns])).sum(1)


def column_sums(pattern: Pattern, values: Tensor) -> Tensor:
    """out[c] = sum over entries of column c of v -> (num_columns,)."""
    values = _wide(values)
    return values.new_zeros(pattern.num_columns).index_add_(0, pattern.columns, values)


def _wide(array: Tensor) -> Tensor:
    return array if array.dtype == torch.float64 else array.float()
