"""Kernels on a CPU. One thread sums each row, so bits repeat.

A product with a sparse matrix is a weighted sum of rows for each of its rows, which is what torch's embedding_bag
computes, with vector instructions on processors of every maker. torch's sparse CSR products call MKL, whose kernels for
processors of others have none.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from saepipe.train.kernels.pattern import Pattern


def decode(pattern: Pattern, values: Tensor, W: Tensor) -> Tensor:
    return _weighted_sums(W, pattern.columns, pattern.row_starts, values)


def decode_t(pattern: Pattern, values: Tensor, A: Tensor) -> Tensor:
    index = pattern.by_column
    return _weighted_sums(A, index.rows, index.starts, values[index.order])


def sampled(pattern: Pattern, A: Tensor, W: Tensor) -> Tensor:
    zeros, shape = A.new_zeros(pattern.num_entries, dtype=torch.float32), (pattern.num_rows, pattern.num_columns)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        # Unchecked, as a pattern's index is always valid.
        entries = torch.sparse_csr_tensor(pattern.row_starts, pattern.columns, zeros, shape, check_invariants=False)
    return torch.sparse.sampled_addmm(entries, A.float(), W.float().T, beta=0.0).values()


def column_sums(pattern: Pattern, values: Tensor) -> Tensor:
    values = values.float()
    return values.new_zeros(pattern.num_columns).index_add_(0, pattern.columns, values)


def _weighted_sums(rows: Tensor, chosen: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Sums weights[e] * rows[chosen[e]] over the entries e of each stretch between two `starts`, in float32."""
    rows, weights = rows.float(), weights.float()
    return embedding_bag(chosen, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)
