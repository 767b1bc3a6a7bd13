"""The number of a step while it is traced: what Python asks of it is recorded, so that the trace serves equal answers.

A penalty that searches every fifth step asks `step % 5 == 0`. The step is traced once with either answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

Question = Callable[[int], bool]


class Guards:
    """Questions about the number of a step, with the answers on which a trace rests."""

    def __init__(self, step: int) -> None:
        self._step = step
        self._answers: list[tuple[Question, bool]] = []

    def ask(self, question: Question) -> bool:
        """Returns the answer for the traced step, and records it."""
        answer = question(self._step)
        self._answers.append((question, answer))
        return answer

    def hold(self, step: int) -> bool:
        """Returns whether a step has the same answers, so that the trace is right for it."""
        return all(question(step) == answer for question, answer in self._answers)


class GuardedNumber:
    """A number that follows from the step's. It can be compared; any other use of its value raises TypeError."""

    def __init__(self, guards: Guards, value: Callable[[int], int] = int) -> None:
        self._guards, self._value = guards, value

    def __mod__(self, divisor: int) -> GuardedNumber:
        value = self._value
        return GuardedNumber(self._guards, lambda step: value(step) % divisor)

    def __bool__(self) -> bool:
        return self != 0

    def __eq__(self, other: object) -> bool:
        value = self._value
        return self._guards.ask(lambda step: value(step) == other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: float) -> bool:
        value = self._value
        return self._guards.ask(lambda step: value(step) < other)

    def __ge__(self, other: float) -> bool:
        return not self < other

    def __gt__(self, other: float) -> bool:
        value = self._value
        return self._guards.ask(lambda step: value(step) > other)

    def __le__(self, other: float) -> bool:
        return not self > other

    def __hash__(self) -> NoReturn:
        raise TypeError("the number of a step is used as a key")

    def __repr__(self) -> NoReturn:
        raise TypeError("the number of a step is used as text")
