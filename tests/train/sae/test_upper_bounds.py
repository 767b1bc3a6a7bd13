"""Entries that reach a floor, and bounds of entries, with room for the rounding of the bounds."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.upper_bounds import ULP, Bounds

pytestmark = pytest.mark.quick


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_positive_bounds_are_compared_by_their_bits() -> None:
    """The same as numbers, but for -0.0, which no active entry has as its bound."""
    tiny, infinite = 2.0**-130, float("inf")
    special = torch.tensor([0.0, tiny, -tiny, 1.0, -1.0, infinite, -infinite, 3.0, 2.984375, 3.015625])
    upper = torch.cat([special, randn(2, 90)]).bfloat16().expand(4, 100)
    bounds = Bounds(upper, torch.zeros(4, 1), sizes=torch.ones(4))
    for floor in (torch.zeros(()), torch.tensor([[0.0], [1.0], [3.0], [2.984375]]), torch.full((100,), 0.5)):
        assert torch.equal(bounds.reaching(floor), upper >= floor * (1 - ULP))
    between = torch.tensor(2.99)  # no bfloat16: more may reach it, but none is missed
    assert not (~bounds.reaching(between) & (upper.float() >= between)).any()
    with_nan = upper.clone()
    with_nan[0, 0] = -float("nan")
    assert Bounds(with_nan, torch.zeros(4, 1), sizes=torch.full((4,), infinite)).reaching(torch.zeros(()))[0, 0]
    negative = torch.tensor(-0.5)
    assert torch.equal(bounds.reaching(negative), upper >= negative * (1 + ULP))


def test_the_bounds_of_entries_contain_what_the_rounded_ones_may_stand_for() -> None:
    true, spread = randn(0, 5, 40), randn(1, 5, 1).abs()
    pattern = Pattern.of_mask(randn(2, 5, 40) > 0)
    upper, lower = Bounds(true.bfloat16(), spread, sizes=torch.ones(5)).of(pattern)
    assert (upper >= pattern.values_of(true)).all()
    assert (lower <= pattern.values_of(true - spread)).all()
    torch.testing.assert_close(upper, pattern.values_of(true), rtol=2 * ULP, atol=0)
    torch.testing.assert_close(lower, pattern.values_of(true - spread), rtol=0, atol=2 * ULP * float(true.abs().max()))
