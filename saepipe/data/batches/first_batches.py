"""The first batches of a stream, read once for all runs that start from them."""

from __future__ import annotations

from contextlib import closing
from itertools import islice

import torch

from saepipe.data.batches.stream import BatchStream


class FirstBatches:
    """Keeps what was read of the beginning of a stream, until `clear`."""

    def __init__(self, stream: BatchStream) -> None:
        self._stream = stream
        self._batches: list[torch.Tensor] = []

    def take(self, count: int) -> list[torch.Tensor]:
        """Returns batches 0 to count - 1, each (batch, d_in)."""
        if len(self._batches) < count:
            with closing(self._stream.batches(stop=count)) as batches:
                self._batches = list(islice(batches, count))
        return self._batches[:count]

    def rows(self, most: int) -> torch.Tensor:
        """Returns the first rows of the stream, (num_rows, d_in): `most`, or those of one epoch if they are fewer."""
        num_rows = min(most, self._stream.num_rows)
        return torch.cat(self.take(-(-num_rows // self._stream.batch_size)))[:num_rows]

    def clear(self) -> None:
        self._batches = []
