"""What each kernel computes, in plain PyTorch. Slow and plain: the fast ones must agree with it.

An entry e stands at row r and column c, with the value v. `values` (num_entries,) and the dense arrays are float32 or
bfloat16; sums and results are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern


def decode(pattern: Pattern, values: Tensor, W: Tensor) -> Tensor:
    """out[r] = sum over entries of row r of v W[c]; W (num_columns, n) -> (num_rows, n)."""
    out = torch.zeros(pattern.num_rows, W.shape[1], device=W.device)
    return out.index_add_(0, pattern.rows, values.float().unsqueeze(1) * W[pattern.columns].float())


def decode_t(pattern: Pattern, values: Tensor, A: Tensor) -> Tensor:
    """out[c] = sum over entries of column c of v A[r]; A (num_rows, n) -> (num_columns, n)."""
    out = torch.zeros(pattern.num_columns, A.shape[1], device=A.device)
    return out.index_add_(0, pattern.columns, values.float().unsqueeze(1) * A[pattern.rows].float())


def sampled(pattern: Pattern, A: Tensor, W: Tensor) -> Tensor:
    """out[e] = A[r] . W[c]; A (num_rows, n), W (num_columns, n) -> (num_entries,)."""
    return (A[pattern.rows].float() * W[pattern.columns].float()).sum(1)


def column_sums(pattern: Pattern, values: Tensor) -> Tensor:
    """out[c] = sum over entries of column c of v -> (num_columns,)."""
    return torch.zeros(pattern.num_columns, device=values.device).index_add_(0, pattern.columns, values.float())
