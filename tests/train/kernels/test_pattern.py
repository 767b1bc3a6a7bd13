from __future__ import annotations

import pytest
import torch
from torch import Tensor

from helpers.kernel_products import random_mask
from saepipe.train.kernels.pattern import Pattern, stable_order

pytestmark = pytest.mark.quick

SHAPES = [(1, 1, 1.0), (1, 7, 0.5), (3, 1, 0.5), (17, 100, 0.01), (33, 257, 0.5), (5, 6, 0.0), (4, 9, 1.0)]


@pytest.fixture(params=SHAPES, ids=str)
def mask(request: pytest.FixtureRequest) -> Tensor:
    return random_mask(*request.param)


def entries(mask: Tensor) -> list[tuple[int, int]]:
    """Returns (row, column) of each true entry, row by row."""
    num_rows, num_columns = mask.shape
    return [(r, c) for r in range(num_rows) for c in range(num_columns) if mask[r, c]]


def check(pattern: Pattern, mask: Tensor) -> None:
    """Asserts that all of a pattern's indices match `mask`."""
    num_rows, num_columns = mask.shape
    expected = entries(mask)
    assert (pattern.num_rows, pattern.num_columns, pattern.num_entries) == (num_rows, num_columns, len(expected))
    assert list(zip(pattern.rows.tolist(), pattern.columns.tolist(), strict=True)) == expected
    assert pattern.positions.tolist() == [r * num_columns + c for r, c in expected]
    assert pattern.row_starts.tolist() == [sum(r < row for r, _ in expected) for row in range(num_rows + 1)]
    for index in (pattern.row_starts, pattern.columns, pattern.rows):
        assert index.dtype == torch.int32


def test_of_a_mask(mask: Tensor) -> None:
    check(Pattern.of_mask(mask), mask)


def test_parts_of_the_columns_have_rows_of_their_own(mask: Tensor) -> None:
    num_columns, columns = mask.shape[1], torch.arange(mask.shape[1])
    edges = (num_columns // 3, (2 * num_columns + 2) // 3)
    parts, chosen = Pattern.of_mask(mask).in_parts(edges)
    spans = [(0, edges[0]), edges, (edges[1], num_columns)]
    check(parts, torch.cat([mask & (columns >= low) & (columns < high) for low, high in spans]))
    of_all, num_rows = entries(mask), len(mask)
    rows_and_columns = zip(parts.rows.tolist(), parts.columns.tolist(), strict=True)
    assert [of_all[entry] for entry in chosen.tolist()] == [(r % num_rows, c) for r, c in rows_and_columns]


def test_patterns_along_the_diagonal(mask: Tensor) -> None:
    blocks = [mask, mask.flip(1), torch.zeros_like(mask)]
    check(Pattern.diagonal([Pattern.of_mask(block) for block in blocks]), torch.block_diag(*blocks))


@pytest.mark.parametrize("num_columns", [3, 2**16, 2**16 + 1])
def test_equal_columns_keep_their_order(num_columns: int) -> None:
    columns = torch.tensor([num_columns - 1, 0, 2, num_columns - 1, 1, 0, 2] * 100, dtype=torch.int32)
    assert stable_order(columns, num_columns).tolist() == sorted(range(700), key=lambda entry: int(columns[entry]))


def test_of_positions(mask: Tensor) -> None:
    num_rows, num_columns = mask.shape
    positions = torch.tensor([r * num_columns + c for r, c in entries(mask)], dtype=torch.int64)
    check(Pattern.of_positions(positions, num_rows, num_columns), mask)


@pytest.mark.parametrize(
    ("num_rows", "k", "num_columns"), [(1, 1, 1), (1, 3, 7), (17, 1, 100), (33, 5, 257), (3, 4, 4)]
)
def test_of_indices_in_any_order(num_rows: int, k: int, num_columns: int) -> None:
    rng = torch.Generator().manual_seed(3)
    indices = torch.stack([torch.randperm(num_columns, generator=rng)[:k] for _ in range(num_rows)])
    mask = torch.zeros(num_rows, num_columns, dtype=torch.bool)
    for row, columns in enumerate(indices.tolist()):
        mask[row, columns] = True
    check(Pattern.of_indices(indices, num_columns), mask)


def test_by_column_is_sorted_by_column_then_row(mask: Tensor) -> None:
    index, by_row = Pattern.of_mask(mask).by_column, entries(mask)
    expected = sorted(range(len(by_row)), key=lambda e: by_row[e][::-1])
    assert index.order.tolist() == expected
    assert index.rows.tolist() == [by_row[e][0] for e in expected]
    assert index.starts.tolist() == [sum(c < column for _, c in by_row) for column in range(mask.shape[1] + 1)]
    assert index.starts.dtype == index.rows.dtype == torch.int32


def test_values_of_an_array_and_back(mask: Tensor) -> None:
    array = torch.randn(mask.shape, generator=torch.Generator().manual_seed(5))
    pattern = Pattern.of_mask(mask)
    values = pattern.values_of(array)
    assert values.tolist() == [array[r, c].item() for r, c in entries(mask)]
    assert torch.equal(pattern.dense(values), torch.where(mask, array, 0.0))


def test_values_of_a_transposed_view() -> None:
    mask, array = random_mask(5, 8, 0.5), torch.randn(8, 5, generator=torch.Generator().manual_seed(5))
    assert torch.equal(Pattern.of_mask(mask).values_of(array.T), array.T[mask])
    assert torch.equal(Pattern.of_mask(mask.T).values_of(array), array[mask.T])


@pytest.mark.parametrize("num_padding", [0, 1, 5])
def test_padding_is_at_the_last_entry_and_beyond_all_starts(mask: Tensor, num_padding: int) -> None:
    plain, (num_rows, num_columns) = Pattern.of_mask(mask), mask.shape
    padded, num_entries = Pattern.padded_to(plain.num_entries + num_padding, mask), plain.num_entries
    for name in ("columns", "rows", "positions"):
        assert torch.equal(getattr(padded, name)[:num_entries], getattr(plain, name)), name
    assert padded.rows[num_entries:].tolist() == [num_rows - 1] * num_padding
    assert padded.columns[num_entries:].tolist() == [num_columns - 1] * num_padding
    assert torch.equal(padded.row_starts, plain.row_starts)
    assert torch.equal(padded.by_column.starts, plain.by_column.starts)
    assert torch.equal(padded.by_column.order[:num_entries], plain.by_column.order)
    values = torch.arange(1.0, num_entries + num_padding + 1)
    assert torch.equal(padded.dense(values), plain.dense(values[:num_entries]))
    assert padded.without_padding(values).tolist() == [*values[:num_entries].tolist(), *[0.0] * num_padding]
    assert padded.ones().sum() == num_entries


def test_entries_for_which_there_is_no_room_are_missing() -> None:
    assert Pattern.padded_to(2, torch.ones(2, 3, dtype=torch.bool)).positions.tolist() == [0, 1]
