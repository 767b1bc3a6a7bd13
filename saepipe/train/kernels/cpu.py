"""Kernels on a CPU. One thread sums each row, so bits repeat.

A product with a sparse matrix is a weighted sum of rows for each of its rows, which is what torch's embedding_bag
computes, with vector instructions on processors of every maker. torch's sparse CSR products call MKL, whose kernels for
processors of others have none.
"""

from __future__ import annotations

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
    return torch.sparse.sampled_addmm(pattern.zeros, A.float(), W.float().T, beta=0.0).values()


def column_sums(pattern: Pattern, values: Tensor) -> Tensor:
    sums = torch.bincount(pattern.columns, values.float(), minlength=pattern.num_columns)
    return sums.float()  # int64 if there are no entries


def _weighted_sums(rows: Tensor, chosen: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Sums weights[e] * rows[chosen[e]] over the entries e of each stretch between two `starts`, in float32."""
    rows, weights = rows.float(), weights.float()
    return embedding_bag(chosen, rows, starts, mode="sum", per_sample_weights=weights, include_last_offset=True)
