"""The kernels as operators of torch: while a step is traced it sees their shapes, and not what they launch."""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import kernels_for


def decode(pattern: Pattern, values: Tensor, W: Tensor) -> Tensor:
    return _decode(*_parts(pattern), values, W)


def decode_t(pattern: Pattern, values: Tensor, A: Tensor) -> Tensor:
    index = pattern.by_column
    positions = index.columns.long() * pattern.num_rows + index.rows
    transposed = Pattern(pattern.num_rows, index.starts, index.rows, positions)
    return decode(transposed, values[index.order], A)


def sampled(pattern: Pattern, A: Tensor, W: Tensor) -> Tensor:
    return _sampled(*_parts(pattern), A, W)


def column_sums(pattern: Pattern, values: Tensor) -> Tensor:
    return _column_sums(*_parts(pattern), values)


def _parts(pattern: Pattern) -> tuple[int, Tensor, Tensor, Tensor]:
    """Returns the fields of a pattern, as arguments of an operator."""
    return pattern.num_columns, pattern.row_starts, pattern.columns, pattern.positions


@torch.library.custom_op("saepipe::decode", mutates_args=())
def _decode(
    num_columns: int, row_starts: Tensor, columns: Tensor, positions: Tensor, values: Tensor, W: Tensor
) -> Tensor:
    pattern = Pattern(num_columns, row_starts, columns, positions)
    return kernels_for(W.device, W.dtype).decode(pattern, values, W)


@_decode.register_fake
def _decoded(
    num_columns: int, row_starts: Tensor, columns: Tensor, positions: Tensor, values: Tensor, W: Tensor
) -> Tensor:
    return W.new_empty(len(row_starts) - 1, W.shape[1], dtype=torch.float32)


@torch.library.custom_op("saepipe::sampled", mutates_args=())
def _sampled(num_columns: int, row_starts: Tensor, columns: Tensor, positions: Tensor, A: Tensor, W: Tensor) -> Tensor:
    pattern = Pattern(num_columns, row_starts, columns, positions)
    return kernels_for(W.device, W.dtype).sampled(pattern, A, W)


@_sampled.register_fake
def _products(num_columns: int, row_starts: Tensor, columns: Tensor, positions: Tensor, A: Tensor, W: Tensor) -> Tensor:
    return A.new_empty(len(columns), dtype=torch.float32)


@torch.library.custom_op("saepipe::column_sums", mutates_args=())
def _column_sums(num_columns: int, row_starts: Tensor, columns: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    pattern = Pattern(num_columns, row_starts, columns, positions)
    return kernels_for(values.device, values.dtype).column_sums(pattern, values)


@_column_sums.register_fake
def _sums(num_columns: int, row_starts: Tensor, columns: Tensor, positions: Tensor, values: Tensor) -> Tensor:
    return values.new_empty(num_columns, dtype=torch.float32)
