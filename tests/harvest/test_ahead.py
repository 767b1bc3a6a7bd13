"""Passes are started ahead in order, and never one that may turn out not to be needed."""

from __future__ import annotations

import numpy as np
import pytest

from saepipe.harvest.ahead import Ahead
from saepipe.harvest.rows import PendingRows, Rows, WindowBatch

pytestmark = pytest.mark.quick


class Batches:
    """Ten batches of at most five rows each; notes what is read and what is started."""

    def __init__(self, in_flight: int) -> None:
        self.read: list[int] = []
        self.started: list[int] = []
        batches = (WindowBatch(number, np.zeros((1, 5)), np.zeros((1, 5))) for number in range(10))
        self.ahead = Ahead((self.note(batch) for batch in batches), self.start, in_flight)

    def note(self, batch: WindowBatch) -> WindowBatch:
        self.read.append(batch.first)
        return batch

    def start(self, batch: WindowBatch) -> PendingRows:
        self.started.append(batch.first)
        return PendingRows(5, lambda: Rows({}))


def test_as_many_passes_are_in_flight_as_allowed() -> None:
    batches = Batches(in_flight=2)
    batches.ahead.fill(0, missing=1000)
    assert batches.started == [0, 1]
    for number in range(10):
        started = batches.ahead.pop()
        assert started is not None
        assert started.number == started.batch.first == number
        batches.ahead.fill(number + 1, missing=1000)
        assert batches.started == list(range(min(number + 3, 10)))
    assert batches.ahead.pop() is None


def test_a_pass_whose_rows_may_not_be_needed_is_neither_started_nor_read() -> None:
    batches = Batches(in_flight=4)
    batches.ahead.fill(0, missing=10)
    assert batches.started == batches.read == [0, 1]
    batches.ahead.pop()
    batches.ahead.fill(0, missing=6)  # the first gave only four rows
    assert batches.started == batches.read == [0, 1, 2]


def test_batches_before_the_first_missing_row_are_read_but_not_run() -> None:
    batches = Batches(in_flight=2)
    batches.ahead.fill(6, missing=1000)
    assert batches.read == list(range(8))
    assert batches.started == [6, 7]


def test_the_last_batch_of_what_is_stored_is_read_for_its_contexts() -> None:
    batches = Batches(in_flight=2)
    batches.ahead.fill(3, missing=0)
    assert batches.read == [0, 1, 2, 3]
    assert batches.started == []
