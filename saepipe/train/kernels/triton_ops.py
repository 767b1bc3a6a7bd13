"""Kernels on CUDA, in Triton.

`decode` and `decode_t` share one product, of sparse rows (a token's latents, or a latent's tokens) and a dense matrix.
There are no atomics and no autotuner: block sizes follow from shapes alone, so each sum has a fixed order and results
repeat bit by bit. An autotuner would choose the order by timing. Results are written once, including empty rows.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from saepipe.train.kernels import triton_kernels
from saepipe.train.kernels.pattern import Pattern

TILE = 2048  # numbers gathered at once, (entries, n): 16 per thread at 4 warps, one load per 16 bytes
MIN_CHUNK = 128  # entries


def decode(pattern: Pattern, values: Tensor, W: Tensor) -> Tensor:
    return _product(pattern.row_starts, pattern.rows, pattern.columns, values, W)


def decode_t(pattern: Pattern, values: Tensor, A: Tensor) -> Tensor:
    index = pattern.by_column
    return _product(index.starts, index.columns, index.rows, values[index.order], A)


def sampled(pattern: Pattern, A: Tensor, W: Tensor) -> Tensor:
    num_entries, n = pattern.num_entries, A.shape[1]
    out, launch = torch.empty(num_entries, device=A.device), _launch(n)
    if num_entries:
        grid = (triton.cdiv(num_entries, launch["BLOCK_E"]),)
        arrays = (pattern.rows, pattern.columns, A.contiguous(), W.contiguous(), out)
        with torch.cuda.device(A.get_device()):
            triton_kernels.sample[grid](*arrays, num_entries, n, **launch)
    return out


def column_sums(pattern: Pattern, values: Tensor) -> Tensor:
    return decode_t(pattern, values, values.new_ones(pattern.num_rows, 1)).squeeze(1)


def _product(starts: Tensor, rows: Tensor, columns: Tensor, values: Tensor, dense: Tensor) -> Tensor:
    """Computes out[r] = sum over entries of row r of v dense[c].

    A latent that is active at every token has a row far longer than the others, and one program would still be busy
    with it after all others are done. So a long row is summed in two steps: its chunks of entries, then their sums.

    Args:
        starts: int32 (num_rows + 1,), start of each row's entries.
        rows: int32 (num_entries,), ascending.
        columns: int32 (num_entries,).
        values: (num_entries,).
        dense: (num_columns, n).

    Returns:
        (num_rows, n) float32
    """
    num_rows, n = len(starts) - 1, dense.shape[1]
    # Chunks are no shorter than the mean row, so that their sums take no more memory than the result.
    chunk = max(MIN_CHUNK, triton.next_power_of_2(triton.cdiv(len(columns), num_rows)))
    out = torch.empty(num_rows, n, device=dense.device)
    sums = torch.empty(len(columns) // chunk, n, device=dense.device)
    values, dense, launch = values.contiguous(), dense.contiguous(), _launch(n)
    # Blocks of n are the grid's slow axis: while one block is processed, its slice of `dense` can stay in the cache.
    num_blocks = triton.cdiv(n, launch["BLOCK_N"])
    with torch.cuda.device(dense.get_device()):
        if len(sums):
            triton_kernels.sum_chunks[len(sums), num_blocks](
                starts, rows, columns, values, dense, sums, n, chunk, **launch
            )
        triton_kernels.sum_rows[num_rows, num_blocks](starts, columns, values, dense, sums, out, n, chunk, **launch)
    return out


def _launch(n: int) -> dict[str, Any]:
    """Returns a tile's shape and number of warps. Triton 3.10 no longer fuses multiply and add by default."""
    block_n = min(256, triton.next_power_of_2(n))
    block_e = min(128, TILE // block_n)
    num_warps = max(1, 4 * block_e * block_n // TILE)
    return {"BLOCK_E": block_e, "BLOCK_N": block_n, "num_warps": num_warps, "enable_fp_fusion": True}
