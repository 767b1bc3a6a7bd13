"""Questions about a step's number are answered for the traced step, and asked again of others."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from saepipe.train.captured.guards import GuardedNumber, Guards

pytestmark = pytest.mark.quick

QUESTIONS: list[Callable[[Any], object]] = [
    lambda step: step % 5 == 0,
    lambda step: step % 5 != 0,
    lambda step: bool(step % 3),
    lambda step: step < 10,
    lambda step: step >= 7.5,
    lambda step: step > 3,
    lambda step: step <= 3,
    lambda step: not step,
    lambda step: step % 6 % 4 > 1,
]


@pytest.mark.parametrize("number", range(len(QUESTIONS)))
def test_a_trace_serves_the_steps_with_its_answers(number: int) -> None:
    question = QUESTIONS[number]
    for step in range(14):
        guards = Guards(step)
        assert question(GuardedNumber(guards)) == question(step)
        assert [guards.hold(other) for other in range(14)] == [question(other) == question(step) for other in range(14)]


def test_all_answers_must_hold() -> None:
    guards = Guards(10)
    step = GuardedNumber(guards)
    assert step % 5 == 0
    assert step > 3
    assert [other for other in range(20) if guards.hold(other)] == [5, 10, 15]


def test_an_answer_from_two_questions_is_served_by_both() -> None:
    guards = Guards(11)
    assert GuardedNumber(guards) in (2, 11)
    assert [other for other in range(20) if guards.hold(other)] == [11]


USES: list[Callable[[Any], object]] = [
    str,
    repr,
    hash,
    int,
    float,
    math.sqrt,
    lambda step: f"{step}",
    lambda step: step + 1,
    lambda step: 2 * step,
    lambda step: step / 10,
    lambda step: {0: 1.0}[step],
    lambda step: [1.0, 2.0][step],
    range,
]


@pytest.mark.parametrize("number", range(len(USES)))
def test_no_other_use_goes_unnoticed(number: int) -> None:
    with pytest.raises(TypeError):
        USES[number](GuardedNumber(Guards(1)))
