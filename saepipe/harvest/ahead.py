"""Starts forward passes ahead of the rows that are taken, but none that may turn out not to be needed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from saepipe.harvest.rows import PendingRows, WindowBatch


@dataclass(frozen=True)
class StartedBatch:
    """A batch whose pass was started; `number` counts from 0 in its split."""

    number: int
    batch: WindowBatch
    rows: PendingRows


class Ahead:
    """Reads batches, and keeps up to `in_flight` of their passes started.

    A batch is read only if its rows, or its contexts, belong to the cache: what is read of a text is stored, so
    reading too far would store more.
    """

    def __init__(
        self,
        batches: Iterable[WindowBatch],
        start: Callable[[WindowBatch], PendingRows],
        in_flight: int,
        first_batch: int = 0,
    ) -> None:
        """
        Args:
            batches: of a split, from number `first_batch` on.
            start: starts the forward pass of a batch.
            in_flight: passes to keep started.
            first_batch: number of the first of the batches.
        """
        self._batches, self._start, self._in_flight = enumerate(batches, first_batch), start, in_flight
        self._started: deque[StartedBatch] = deque()
        self._num_read = first_batch

    def pop(self) -> StartedBatch | None:
        """The next batch in order, or None if none was started."""
        return self._started.popleft() if self._started else None

    def fill(self, first: int, missing: int) -> None:
        """Starts passes.

        Args:
            first: number of the first batch that may hold missing rows; those before are read, but not run.
            missing: rows that the batches which are not popped yet must give.
        """
        missing -= sum(started.rows.most for started in self._started)
        while len(self._started) < self._in_flight and (self._num_read <= first or missing > 0):
            number, batch = next(self._batches, (None, None))
            if number is None or batch is None:
                return
            self._num_read += 1
            if number >= first and missing > 0:
                self._started.append(StartedBatch(number, batch, self._start(batch)))
                missing -= self._started[-1].rows.most
