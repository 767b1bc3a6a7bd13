"""The k largest numbers of rows, and numbers that k of a row reach."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saepipe.train.kernels.largest import at_most_kth, largest

pytestmark = pytest.mark.quick


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


@pytest.mark.parametrize("k", [1, 7, 90])
def test_the_largest_are_those_of_topk(k: int) -> None:
    values = randn(50, 90)
    values[:, 80:] = float("-inf")  # as where a row has fewer entries
    expected = values.topk(k, dim=1).values
    found = values.gather(1, largest(values, k)).sort(dim=1, descending=True).values
    assert torch.equal(found, expected)
