"""Batches that may not fit in memory: such batches are run in parts, of half as many contexts until they fit."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import numpy as np
import torch

from saepipe.data.cache.layout import Split
from saepipe.data.errors import OutOfSpaceError, is_out_of_memory
from saepipe.harvest.rows import PendingRows, Rows, WindowBatch

Start = Callable[[WindowBatch, Split], PendingRows]
"""Starts a batch, and raises its errors of memory at once."""


class FittingBatches:
    """Starts batches, in parts once a whole one did not fit. Threads may start batches at once.

    The next part begins when the rows of the last are in the host's memory, so parts need less memory throughout. Their
    rows may differ from those of the whole batch in the last bits.
    """

    def __init__(self, start: Start, say: Callable[[str], None]) -> None:
        """`say` is told when batches no longer fit in memory and are run in parts from then on."""
        self._start, self._say, self._lock = start, say, Lock()
        self.at_once: int | None = None
        """contexts per forward pass, once a whole batch did not fit"""

    def start(self, batch: WindowBatch, split: Split) -> PendingRows:
        """Starts a batch, or runs it in parts.

        Raises:
            OutOfSpaceError: if a single context does not fit in memory.
        """
        while True:
            tried = min(self.at_once or len(batch), len(batch))
            try:
                return self._start(batch, split) if tried == len(batch) else self._in_parts(batch, split, tried)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = str(error).partition("\n")[0]
            self._halve(tried, problem)  # outside the handler, whose traceback keeps the failed pass's tensors alive

    def _in_parts(self, batch: WindowBatch, split: Split, num_contexts: int) -> PendingRows:
        parts = [self._start(part, split).wait() for part in batch.parts(num_contexts)]
        arrays = {name: np.concatenate([part.arrays[name] for part in parts]) for name in parts[0].arrays}
        rows = Rows(arrays, sum(part.num_dropped for part in parts))
        return PendingRows(len(rows) + rows.num_dropped, lambda: rows)

    def _halve(self, tried: int, problem: str) -> None:
        """Halves the contexts per pass, and says so, unless another thread has done so meanwhile."""
        if tried == 1:
            raise OutOfSpaceError(
                f"not even one context fits in memory: {problem}",
                hint="use a smaller context_size, a smaller model, or more memory",
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        with self._lock:
            if self.at_once is None or self.at_once >= tried:
                self.at_once = tried // 2
                self._say(f"{tried} contexts do not fit in memory: batches are run {self.at_once} contexts at a time")
