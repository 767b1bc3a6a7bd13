"""Which steps are run from a trace, and by which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from saepipe.train.captured.runners import Replay, interpreted
from saepipe.train.captured.traces import MAX_TRACES, Traces


def adds_one_or_ten(step: int, tensors: tuple[Tensor]) -> None:
    tensors[0].add_(10 if step % 3 == 0 else 1)


class Counted:
    """A runner that counts what it is given."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: GraphModule, tensors: Sequence[Tensor]) -> Replay:
        self.graphs += 1
        return interpreted(graph, tensors)


def test_a_kind_of_step_is_traced_when_it_comes_again() -> None:
    total, runner = torch.zeros(()), Counted()
    traces = Traces(runner, lambda _: None)
    made = [traces.replay("key", step, adds_one_or_ten, (total,)) for step in range(7)]
    assert made == [False] + [True] * 6
    assert total == 10 + 10 + 4  # steps 3 and 6; 1, 2, 4 and 5
    assert runner.graphs == 2
    assert not traces.replay("another", 8, adds_one_or_ten, (total,))


def test_a_step_that_cannot_be_captured_is_tried_once_and_reported() -> None:
    said, total = list[str](), torch.zeros(())
    traces = Traces(interpreted, said.append)
    calls = 0

    def reads(step: int, tensors: Any) -> None:
        nonlocal calls
        calls += 1
        tensors[0].add_(float(tensors[0]))

    assert not any(traces.replay("key", step, reads, (total,)) for step in range(5))
    assert calls == 1
    assert said[0].endswith(
        "after 1 are made plainly: they cannot be captured, since Python asks for the value of a tensor"
    )
    assert len(said) == 1
    assert total == 0


def test_the_number_of_traces_is_bounded() -> None:
    total, runner = torch.zeros(()), Counted()
    traces = Traces(runner, lambda _: None)

    def asks_for_every_step(step: int, tensors: Any) -> None:
        tensors[0].add_(next(number for number in range(100) if step == number))

    made = [traces.replay("key", step, asks_for_every_step, (total,)) for step in range(MAX_TRACES + 5)]
    assert made == [False] + [True] * MAX_TRACES + [False] * 4
    assert total == sum(range(1, MAX_TRACES + 1))
