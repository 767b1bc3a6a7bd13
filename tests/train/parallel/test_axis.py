"""An axis is shared out without a gap, and an exchange that nobody answers says so."""

from __future__ import annotations

import pytest

from saepipe.train.parallel.axis import Axis


@pytest.mark.parametrize("length", [4, 7, 45])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_the_parts_of_an_axis_are_even_and_complete(length: int, size: int) -> None:
    parts = [Axis(rank, size).part(length) for rank in range(size)]
    assert parts == Axis(0, size).parts(length)
    assert [index for part in parts for index in part] == list(range(length))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
