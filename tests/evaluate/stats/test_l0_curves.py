"""Curves over L0: reading between points, and the L0 of a minimum."""

from __future__ import annotations

import math

import pytest

from saepipe.evaluate.stats.l0_curves import Curve

pytestmark = pytest.mark.quick


def curve(values: dict[float, float]) -> Curve:
    return Curve(tuple({"l0": l0, "y": y} for l0, y in values.items()))


def parabola(l0: float) -> float:
    """Has its minimum at L0 30."""
    return 2 + 0.7 * math.log(l0 / 30) ** 2


@pytest.mark.parametrize("l0s", [(10, 20, 40, 80), (9, 33, 35), (80, 25, 5, 28)])
def test_the_lowest_point_of_a_parabola_in_log_l0(l0s: tuple[float, ...]) -> None:
    assert curve({l0: parabola(l0) for l0 in l0s}).l0_at_lowest("y") == pytest.approx(30)


@pytest.mark.parametrize("l0s", [(1, 2, 4, 8), (40, 80, 160), (20, 80)])
def test_no_minimum_inside_the_l0s(l0s: tuple[float, ...]) -> None:
    assert curve({l0: parabola(l0) for l0 in l0s}).l0_at_lowest("y") is None


def test_the_minimum_of_two_equal_points_is_between_them() -> None:
    assert curve({1: 3.0, 2: 1.0, 4: 1.0, 8: 3.0}).l0_at_lowest("y") == pytest.approx(math.sqrt(8))
    assert curve({1: 1.0, 2: 1.0, 4: 1.0}).l0_at_lowest("y") is None


def test_points_of_one_l0_are_averaged() -> None:
    points = [*((l0, parabola(l0) + 0.1) for l0 in (10, 20, 60)), *((l0, parabola(l0) - 0.1) for l0 in (10, 20, 60))]
    lowest = Curve(tuple({"l0": l0, "y": y} for l0, y in points)).l0_at_lowest("y")
    assert lowest == pytest.approx(30)


def test_a_value_between_points_lies_between_theirs() -> None:
    falling = curve({10: 3.0, 20: 2.0, 80: 1.0})
    assert falling.at(20, "y") == pytest.approx(2)
    assert 1 < falling.at(40, "y") < 2
