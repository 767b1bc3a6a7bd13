"""The k largest numbers of rows, and numbers that k of a row reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saepipe.train.kernels.largest import at_most_kth, largest

pytestmark = pytest.mark.quick

NAN, INF = float("nan"), float("inf")


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("shift", [-10.0, 0.0, 10.0])  # all negative, both signs, all positive
@pytest.mark.parametrize(("num_columns", "k"), [(333, 5), (4096, 32), (64, 60), (40, 40), (16, 1)])
def test_k_numbers_of_every_row_reach_the_floor(num_columns: int, k: int, shift: float) -> None:
    """Groups of columns are compared where there are many; the last columns may be in none."""
    values = (randn(50, num_columns) + shift).bfloat16()
    values[:, -1] = 100  # the largest of all, beyond the groups
    floor = at_most_kth(values, k)
    assert floor.shape == (50, 1)
    assert ((values >= floor).sum(1) >= k).all()
    exact = values.topk(k, dim=1).values[:, -1:]
    assert (floor <= exact).all()
    if shift >= 0:
        assert ((values >= floor).sum(1) <= 2 * k + 8).all()


def test_the_kth_of_few_columns_is_exact_among_signed_zeros_and_infinities() -> None:
    infinite = float("inf")
    values = torch.tensor([[0.0, -0.0, -1.0, infinite, -infinite, 2.0**-130, -(2.0**-130), 1.0]]).bfloat16()
    ordered = values.sort(dim=1, descending=True).values
    for k in range(1, 9):
        assert at_most_kth(values, k) == ordered[:, k - 1]


def chosen_values(values: Tensor, k: int) -> list[list[float]]:
    columns = largest(values, k)
    assert columns.dtype == torch.int64
    assert all(row == sorted(set(row)) for row in columns.tolist())
    return values.gather(1, columns).sort(dim=1).values.tolist()


@pytest.mark.parametrize(("num_columns", "k"), [(1, 1), (7, 1), (7, 7), (100, 9), (257, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_largest_of_each_row(num_columns: int, k: int, dtype: torch.dtype) -> None:
    values = torch.randn(33, num_columns, generator=torch.Generator().manual_seed(0), dtype=dtype)
    assert chosen_values(values, k) == [sorted(row)[-k:] for row in values.tolist()]


def test_each_row_has_k_where_values_are_equal() -> None:
    values = torch.tensor([[1.0, 2.0, 2.0, 2.0, 0.0], [5.0, 4.0, 3.0, 2.0, 1.0], [-INF, -INF, 1.0, -INF, -INF]])
    assert chosen_values(values, 2) == [[2.0, 2.0], [4.0, 5.0], [-INF, 1.0]]


def test_a_nan_is_larger_than_any_number() -> None:
    values = torch.tensor([[1.0, NAN, 3.0, 2.0], [NAN, NAN, NAN, 1.0], [4.0, 3.0, 2.0, 1.0]])
    assert largest(values, 2)[[0, 2]].tolist() == [[1, 2], [0, 1]]
    assert 3 not in largest(values, 2)[1]


def test_a_nan_in_one_row_and_equal_values_in_another_do_not_cancel() -> None:
    values = torch.tensor([[1.0, NAN, 3.0, 2.0], [2.0, 2.0, 2.0, 1.0]])
    assert largest(values, 2)[0].tolist() == [1, 2]
    assert 3 not in largest(values, 2)[1]
