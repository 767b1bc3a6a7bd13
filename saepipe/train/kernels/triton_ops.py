"""The kernels on CUDA, in Triton.

`decode` and `decode_t` are one product, of sparse rows (a token's latents, or a latent's tokens) and a dense matrix.
No atomics and no autotuner: block sizes follow from shapes alone, so each sum has one order and bits repeat. An
autotuner chooses by timing, and its choice is the order. The array of results is written once, empty rows too.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from saepipe.train.kernels import triton_kernels
from saepipe.train.kernels.pattern import Pattern

TILE = 2048  # numbers gathered at once, (entries, n): 16 a thread at 4 warps, each 16 bytes of them one load
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
    """out[r] = sum over entries of row r of v dense[c].

    A latent that fires at every token is a row far longer than the others, and one program would still be busy with it
    when all others are done. So a long row is summed in two steps: its chunks of entries, then the chunks' sums.

    Args:
        starts: int32 (num_rows + 1,), where each row's entries begin.
        rows: int32 (num_entries,), ascending.
        columns: int32 (num_entries,).
        values: (num_entries,).
        dense: (num_columns, n).

    Returns:
        (num_rows, n) float32
    """
    num_rows, n = len(starts) - 1, dense.shape[1]
    # Chunks are no shorter than the mean row: their sums then take no more memory than the result.
    chunk = max(MIN_CHUNK, triton.next_power_of_2(triton.cdiv(len(columns), num_rows)))
    out = torch.empty(num_rows, n, device=dense.device)
    sums = torch.empty(len(columns) // chunk, n, device=dense.device)
    values, dense, launch = values.contiguous(), dense.contiguous(), _launch(n)
    # Blocks of n are the grid's slow axis: while one is worked on, its slice of `dense` can stay in the cache.
    num_blocks = triton.cdiv(n, launch["BLOCK_N"])
    with torch.cuda.device(dense.get_device()):
        if len(sums):
            triton_kernels.sum_chunks[len(sums), num_blocks](
                starts, rows, columns, values, dense, sums, n, chunk, **launch
            )
        triton_kernels.sum_rows[num_rows, num_blocks](starts, columns, values, dense, sums, out, n, chunk, **launch)
    return out


def _launch(n: int) -> dict[str, Any]:
    """The shape of a tile and the warps that hold it. Triton 3.10 no longer fuses multiply and add by default."""
    block_n = min(256, triton.next_power_of_2(n))
    block_e = min(128, TILE // block_n)
    num_warps = max(1, 4 * block_e * block_n // TILE)
    return {"BLOCK_E": block_e, "BLOCK_N": block_n, "num_warps": num_warps, "enable_fp_fusion": True}
