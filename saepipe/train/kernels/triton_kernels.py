"""Triton kernels of `triton_ops`.

A tile (BLOCK_E, BLOCK_N) holds rows of a dense array, in one block of its n columns. Arrays are contiguous; starts,
rows and columns are int32. Offsets into dense arrays are int64, since they may exceed 2^31.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def sum_chunks(starts, rows, columns, values, dense, sums, n, chunk, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr):
    """Sums each whole chunk of a long row -> sums[index of the chunk]; writes nothing for other chunks."""
    begin = tl.program_id(0) * chunk
    row = tl.load(rows + begin)
    row_begin, row_end = tl.load(starts + row), tl.load(starts + row + 1)
    if (row_end - row_begin >= 2 * chunk) & (begin + chunk <= row_end):
        block = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
        total = _sum_entries(columns, values, dense, begin, begin + chunk, n, block, BLOCK_E, BLOCK_N)
        tl.store(sums + tl.program_id(0).to(tl.int64) * n + block, total, mask=block < n)


@triton.jit
def sum_rows(starts, columns, values, dense, sums, out, n, chunk, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr):
    """Sums a row's entries -> out[row]; a long row adds those before its whole chunks, the chunks, and the rest."""
    row = tl.program_id(0)
    begin, end = tl.load(starts + row), tl.load(starts + row + 1)
    is_long = end - begin >= 2 * chunk  # long enough to contain a whole chunk
    first_chunk, end_chunk = tl.cdiv(begin, chunk), end // chunk
    block = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    head_end = tl.where(is_long, first_chunk * chunk, end)
    total = _sum_entries(columns, values, dense, begin, head_end, n, block, BLOCK_E, BLOCK_N)
    if is_long:
        total += _sum_dense(sums, first_chunk, end_chunk, n, block, BLOCK_E, BLOCK_N)
        total += _sum_entries(columns, values, dense, end_chunk * chunk, end, n, block, BLOCK_E, BLOCK_N)
    tl.store(out + row.to(tl.int64) * n + block, total, mask=block < n)


@triton.jit
def _sum_entries(columns, values, dense, begin, end, n, block, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr):
    """Sums v dense[c] over entries begin..end -> (BLOCK_N,)."""
    total = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    for first in range(begin, end, BLOCK_E):
        entry = first + tl.arange(0, BLOCK_E)
        inside = entry < end
        value = tl.load(values + entry, mask=inside, other=0.0).to(tl.float32)
        at = tl.load(columns + entry, mask=inside, other=0).to(tl.int64)[:, None] * n + block[None, :]
        gathered = tl.load(dense + at, mask=inside[:, None] & (block < n)[None, :], other=0.0)
        total += value[:, None] * gathered.to(tl.float32)
    return tl.sum(total, 0)


@triton.jit
def _sum_dense(array, begin, end, n, block, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr):
    """Sums rows begin..end -> (BLOCK_N,)."""
    total = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    for first in range(begin, end, BLOCK_E):
        row = first + tl.arange(0, BLOCK_E)
        at = row.to(tl.int64)[:, None] * n + block[None, :]
        total += tl.load(array + at, mask=(row < end)[:, None] & (block < n)[None, :], other=0.0)
    return tl.sum(total, 0)


@triton.jit(do_not_specialize=["num_entries"])  # it differs at every step
def sample(rows, columns, A, W, out, num_entries, n, BLOCK_E: tl.constexpr, BLOCK_N: tl.constexpr):
    """A[r] . W[c] -> out, for BLOCK_E entries. Neighbours in a row share A[r], so it comes from the nearest cache."""
    entry = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    inside = entry < num_entries
    row_of_A = tl.load(rows + entry, mask=inside, other=0).to(tl.int64)[:, None] * n
    row_of_W = tl.load(columns + entry, mask=inside, other=0).to(tl.int64)[:, None] * n
    total = tl.zeros([BLOCK_E, BLOCK_N], tl.float32)
    for first in range(0, n, BLOCK_N):
        block = (first + tl.arange(0, BLOCK_N))[None, :]
        mask = inside[:, None] & (block < n)
        a = tl.load(A + row_of_A + block, mask=mask, other=0.0)
        w = tl.load(W + row_of_W + block, mask=mask, other=0.0)
        total += a.to(tl.float32) * w.to(tl.float32)
    tl.store(out + entry, tl.sum(total, 1), mask=inside)
