"""The traces of one run's steps, or of one stack's, each with the answers for which it was made."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import NamedTuple, TypeVar, cast

from torch.utils._pytree import tree_leaves

from saepipe.train.captured.guards import GuardedNumber, Guards
from saepipe.train.captured.runners import Replay, Runner
from saepipe.train.captured.trace import trace

T = TypeVar("T")

MAX_TRACES = 16
"""Kinds of steps that are traced; a component with more questions about the step's number gets plain steps for others.
"""


class _Trace(NamedTuple):
    key: Hashable
    guards: Guards
    replay: Replay | None  # None: steps of this kind cannot be captured


class Traces:
    """Runs steps from traces. A kind of step is traced when it comes for the second time."""

    def __init__(self, runner: Runner, say: Callable[[str], None]) -> None:
        self._runner, self._say = runner, say
        self._seen: set[Hashable] = set()
        self._traces: list[_Trace] = []

    def replay(self, key: Hashable, step: int, function: Callable[[int, T], None], tensors: T) -> bool:
        """Makes a step; returns False, having done nothing, if it must be made plainly.

        Args:
            key: what the host knows of the step, besides its number, that decides on operations.
            step: its number.
            function: makes the step by changing `tensors` in place; of its number it may ask only comparisons.
            tensors: nested; for a key always the same ones.
        """
        fitting = (each for each in self._traces if each.key == key and each.guards.hold(step))
        if (found := next(fitting, None)) is None:
            if key not in self._seen or len(self._traces) == MAX_TRACES:
                self._seen.add(key)
                return False
            found = self._traced(key, step, function, tensors)
            self._traces.append(found)
        if found.replay is not None:
            found.replay()
        return found.replay is not None

    def refused(self, key: Hashable) -> bool:
        """Returns whether a step of this kind could not be captured."""
        return any(each.key == key and each.replay is None for each in self._traces)

    def _traced(self, key: Hashable, step: int, function: Callable[[int, T], None], tensors: T) -> _Trace:
        guards = Guards(step)
        number = cast(int, GuardedNumber(guards))
        try:
            graph = trace(lambda tensors: function(number, tensors), tensors)
        except Exception as error:  # the plain step that follows meets every real error again
            self._say(f"steps like the one after {step:,} are made plainly: they cannot be captured, {reason(error)}")
            return _Trace(key, guards, None)
        return _Trace(key, guards, self._runner(graph, tree_leaves(tensors)))


REASONS = {
    "data-dependent": "since Python asks for the value of a tensor",
    "to FakeTensors": "since a tensor is used that is no part of the run's state",
}
"""What torch's messages mean here, by a part of them."""


def reason(error: Exception) -> str:
    """Returns why a step could not be traced."""
    text = str(error).strip() or type(error).__name__
    return next((known for part, known in REASONS.items() if part in text), f"since: {text.splitlines()[0]}")
