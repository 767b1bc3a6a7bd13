"""Positions of the entries of a batch's activations that a sparse step computes with, by row and by column."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from saepipe.train.kernels.constants import TRACED, constant, multiples
from saepipe.train.kernels.largest import largest


@dataclass(frozen=True)
class ByColumn:
    """Entries of a pattern sorted by column, then row: the transposed index."""

    starts: Tensor  # int32 (num_columns + 1,): start of each column's entries
    columns: Tensor  # int32 (num_entries,), ascending
    rows: Tensor  # int32 (num_entries,)
    order: Tensor  # int64 (num_entries,): values[order] has this order


@dataclass(frozen=True)
class Pattern:
    """Entries of a (num_rows, num_columns) array, row by row; in a step (batch, d_sae). Values are kept separately.

    Derived indices are computed once, so one transposed index serves both gradients of a step.

    Where only the device knows the number of entries, a pattern is padded to more. Padding entries are the last ones,
    all at the last row and column, where every kernel may read. They are beyond `row_starts` and the starts by column,
    so sums by row or column pass over them; their values are 0, for all that sums values.
    """

    num_columns: int
    row_starts: Tensor  # int32 (num_rows + 1,): start of each row's entries
    columns: Tensor  # int32 (num_entries,), ascending in each row
    positions: Tensor  # int64 (num_entries,): row * num_columns + column
    padded: bool = False  # whether entries from row_starts[-1] on are padding

    @classmethod
    def of_mask(cls, mask: Tensor) -> Pattern:
        """Returns the pattern of the true entries of `mask` (num_rows, num_columns). Waits for their number on CUDA."""
        return cls.of_positions(true_positions(mask), *mask.shape)

    @classmethod
    def padded_to(cls, num_entries: int, mask: Tensor) -> Pattern:
        """Returns the pattern of the true entries of a mask, of which there are no more than `num_entries`, padded.

        Nothing waits. If there are more, the last ones are missing. `num_entries` is at most the size of the mask.
        """
        (num_rows, num_columns), end = mask.shape, mask.numel()
        positions = mask.flatten().nonzero_static(size=num_entries, fill_value=end).squeeze(1)
        row_starts = cls.of_positions(positions, num_rows, num_columns).row_starts  # without those at the end
        positions = positions.clamp_max(end - 1)
        return cls(num_columns, row_starts, (positions % num_columns).int(), positions, padded=True)

    @classmethod
    def of_positions(cls, positions: Tensor, num_rows: int, num_columns: int) -> Pattern:
        """Returns the pattern of the entries at row * num_columns + column, int64 (num_entries,), ascending."""
        edges = multiples(num_rows + 1, num_columns, torch.int64, positions.device)
        row_starts = torch.searchsorted(positions, edges, out_int32=True)
        return cls(num_columns, row_starts, (positions % num_columns).int(), positions)

    @classmethod
    def of_indices(cls, indices: Tensor, num_columns: int) -> Pattern:
        """Returns a pattern with k entries per row, from distinct columns (num_rows, k) in any order."""
        return cls.of_sorted(indices.sort(dim=1).values, num_columns)

    @classmethod
    def of_sorted(cls, columns: Tensor, num_columns: int) -> Pattern:
        """Returns a pattern with k entries per row, from columns (num_rows, k) that ascend in each row."""
        num_rows, k = columns.shape
        row_starts = torch.arange(0, num_rows * k + 1, k, dtype=torch.int32, device=columns.device)
        first = torch.arange(num_rows, device=columns.device).unsqueeze(1) * num_columns
        return cls(num_columns, row_starts, columns.flatten().int(), (first + columns).flatten())

    @classmethod
    def stacked(cls, parts: Sequence[Pattern]) -> Pattern:
        """Returns the pattern of several with the same columns, one below the other."""
        firsts = [0, *accumulate(part.num_rows for part in parts)]
        positions = [part.positions + first * part.num_columns for part, first in zip(parts, firsts, strict=False)]
        before = [0, *accumulate(part.num_entries for part in parts)]
        starts = [part.row_starts[:-1] + entries for part, entries in zip(parts, before, strict=False)]
        end = parts[0].row_starts.new_tensor(before[-1:])
        columns = torch.cat([part.columns for part in parts])
        return cls(parts[0].num_columns, torch.cat([*starts, end]), columns, torch.cat(positions))

    @classmethod
    def diagonal(cls, blocks: Sequence[Pattern]) -> Pattern:
        """Returns the pattern of several of one shape along the diagonal: rows and columns of their own for each."""
        below, num_columns = cls.stacked(blocks), blocks[0].num_columns
        sizes = torch.tensor([block.num_entries for block in blocks], device=below.columns.device)
        first = multiples(len(blocks), num_columns, torch.int64, sizes.device).repeat_interleave(sizes)
        columns = below.columns + first
        rows = torch.div(below.positions, num_columns, rounding_mode="floor")
        width = num_columns * len(blocks)
        return cls(width, below.row_starts, columns.int(), rows * width + columns)

    def only(self, entries: Tensor) -> Pattern:
        """Returns the pattern of some of these entries, by their indices, int64 ascending."""
        return Pattern.of_positions(self.positions.index_select(0, entries), self.num_rows, self.num_columns)

    def largest(self, values: Tensor, num: int) -> Tensor:
        """Returns the indices of each row's `num` largest values (num_entries,), int64 ascending.

        Every row must have as many.
        """
        starts, rows = self.row_starts.long(), self.rows.long()
        number = torch.arange(self.num_entries, device=values.device) - starts.index_select(0, rows)
        width = int(starts.diff().max())
        padded = values.new_full((self.num_rows, width), float("-inf"))
        padded.view(-1).scatter_(0, rows * width + number, values)
        return (largest(padded, num) + starts[:-1].unsqueeze(1)).flatten()

    def in_parts(self, edges: tuple[int, ...]) -> tuple[Pattern, Tensor]:
        """Splits the columns at `edges`, ascending, and gives each part rows of its own.

        Returns:
            The pattern (num_parts * num_rows, num_columns) in which an entry of part p and row r is in row
            p * num_rows + r, and its entries' indices here, int64 (num_entries,).
        """
        part = torch.bucketize(self.columns, constant(edges, self.columns.dtype, self.columns.device), right=True)
        num_numbers = self.num_rows * self.num_columns
        positions, entries = torch.add(self.positions, part, alpha=num_numbers).sort()
        return Pattern.of_positions(positions, (len(edges) + 1) * self.num_rows, self.num_columns), entries

    @property
    def num_rows(self) -> int:
        return len(self.row_starts) - 1

    @property
    def num_entries(self) -> int:
        return len(self.columns)

    @cached_property
    def rows(self) -> Tensor:
        """Row of each entry, int32 (num_entries,)."""
        return torch.div(self.positions, self.num_columns, rounding_mode="floor").int()

    @cached_property
    def by_column(self) -> ByColumn:
        order = stable_order(self.columns, self.num_columns)
        columns = self.columns[order]
        edges = multiples(self.num_columns + 1, 1, torch.int32, columns.device)
        starts = torch.searchsorted(columns, edges, out_int32=True)
        if self.padded:
            starts = torch.minimum(starts, self.row_starts[-1])
        return ByColumn(starts, columns, self.rows[order], order)

    @cached_property
    def padding(self) -> Tensor:
        """Marks the padding entries of a padded pattern, bool (num_entries,)."""
        return multiples(self.num_entries, 1, torch.int32, self.columns.device) >= self.row_starts[-1]

    def without_padding(self, values: Tensor) -> Tensor:
        """Returns values (num_entries,), with 0 at padding entries, where their gradients end."""
        return values.masked_fill(self.padding, 0) if self.padded else values

    @cached_property
    def targets(self) -> Tensor:
        """Positions to which values are written: `positions`, and of padding entries the one after the last."""
        end = self.num_rows * self.num_columns
        return self.positions.masked_fill(self.padding, end) if self.padded else self.positions

    @cached_property
    def zeros(self) -> Tensor:
        """float32 zeros at the entries, as a sparse CSR tensor (num_rows, num_columns) of torch."""
        values, shape = self.columns.new_zeros(self.num_entries, dtype=torch.float32), (self.num_rows, self.num_columns)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
            # Unchecked, as the index is always valid; padding entries, of which it has no row, stay 0.
            return torch.sparse_csr_tensor(self.row_starts, self.columns, values, shape, check_invariants=False)

    def ones(self) -> Tensor:
        """Returns ones, (num_entries,) float32."""
        return self.without_padding(torch.ones(self.num_entries, device=self.columns.device))

    def row_sums(self, values: Tensor) -> Tensor:
        """Sums values (num_entries,) over each row, (num_rows,)."""
        return values.new_zeros(self.num_rows).index_add_(0, self.rows, values)

    def values_of(self, array: Tensor) -> Tensor:
        """Returns the entries' values (num_entries,) in an array (num_rows, num_columns)."""
        return array.flatten().index_select(0, self.positions)

    def dense(self, values: Tensor) -> Tensor:
        """Returns an array (num_rows, num_columns) with `values` (num_entries,) at the entries and 0 elsewhere."""
        return self.dense_or(values, 0.0)

    def dense_or(self, values: Tensor, other: float) -> Tensor:
        """Returns an array (num_rows, num_columns) with `values` (num_entries,) at the entries, `other` elsewhere."""
        size = self.num_rows * self.num_columns
        flat = values.new_full((size + self.padded,), other)
        scattered = flat.scatter if values.requires_grad else flat.scatter_  # without a gradient, in one array
        return scattered(0, self.targets, values)[:size].view(self.num_rows, self.num_columns)


def stable_order(columns: Tensor, num_columns: int) -> Tensor:
    """Returns the order that sorts columns (num_entries,), below `num_columns`, int64; equal ones keep theirs.

    On a CPU by numpy if 16 bits hold a column: a radix sort, which takes a half to a twentieth of torch's time.
    """
    if columns.device.type == "cpu" and num_columns <= 2**16 and not TRACED.get():
        return torch.from_numpy(columns.numpy().astype(np.uint16).argsort(kind="stable"))
    return columns.argsort(stable=True)


def true_positions(mask: Tensor) -> Tensor:
    """Returns the flat positions of the true elements of a bool array, int64, ascending.

    On a CPU by numpy, which passes over stretches of zeros several times as fast as torch.
    """
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.flatten().nonzero().squeeze(1)


def num_true(mask: Tensor) -> int:
    """Returns the number of true elements of a bool array; on a CPU by numpy, in a fifth of torch's time."""
    return int(np.count_nonzero(mask.numpy())) if mask.device.type == "cpu" else int(mask.count_nonzero())
