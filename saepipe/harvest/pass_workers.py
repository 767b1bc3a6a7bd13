"""Threads that run the model, so that passes go on while earlier rows are looked at, encoded and written."""

from __future__ import annotations

from concurrent.futures import Future
from functools import partial

import torch

from saepipe.data.cache.layout import Split
from saepipe.data.workers import Workers
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.rows import PendingRows, Rows, WindowBatch


class PassWorkers:
    """Starts forward passes in order; torch's threads are shared out among the passes until this is closed.

    On a CPU two passes run at once, each on half of torch's threads: while one is in a part that a single thread
    does, or waits for a thread that the encoders have displaced, the other goes on. The number of threads changes no
    row of a pass over 128 tokens or more. Other devices, and models with a device map or quantised weights, run passes
    one after the other, and one thread keeps the device's queue filled.
    """

    def __init__(self, source: RowSource) -> None:
        self._source, self._torch_threads = source, torch.get_num_threads()
        count = min(2, self._torch_threads) if source.runs_in_threads else 1
        self.in_flight = count + 1
        """passes to start before the first is waited for: one more than run at once"""
        self._workers = Workers(count, "run the model")
        torch.set_num_threads(max(1, self._torch_threads // count))

    def close(self) -> None:
        """Waits for the passes that have begun."""
        try:
            self._workers.close()
        finally:
            torch.set_num_threads(self._torch_threads)

    def start(self, batch: WindowBatch, split: Split) -> PendingRows:
        """Queues a batch. Its errors, wherever they occur, are raised when its rows are waited for."""
        future = self._workers.submit(self._source.start, batch, split)
        return PendingRows(self._source.most_rows(batch, split), partial(self._wait, future))

    def _wait(self, future: Future[PendingRows]) -> Rows:
        return self._workers.result(future).wait()
