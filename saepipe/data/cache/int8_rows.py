"""The training rows of an int8 cache, read as bfloat16 bits like those of any other profile."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from saepipe.data.cache.int8 import Channels, QuantisedRows, reconstruct
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.mapped_rows import Files, MappedRows
from saepipe.data.cache.shard_reader import ShardReader
from saepipe.data.errors import CorruptDataError


class Int8Rows(MappedRows):
    """(num_rows, d_in) bfloat16 bits, reconstructed chunk by chunk, so never zero-copy. Thread-safe."""

    def __init__(self, q: MappedRows, folder: Path, hook: str, files: Files) -> None:
        """Opens the arrays that belong to the int8 array `q` of the cache at `folder`.

        Raises:
            CorruptDataError: if the manifest lists too few shards, or the channel statistics are damaged.
        """
        super().__init__(folder, q.array.name, files)
        self.dtype = "uint16"
        scale, index, value, mean, std = (
            MappedRows(folder, Layout.int8(hook, part), files)
            for part in ("scale", "outlier_index", "outlier_value", "mean", "std")
        )
        self._parts = (q, scale, index, value)
        self._channels = Channels(mean.read(0, mean.num_rows), std.read(0, std.num_rows))

    @property
    def shards(self) -> Files:
        return {name: entry for part in self._parts for name, entry in part.shards.items()}

    @property
    def zero_copy(self) -> bool:
        return False

    def read_chunk(self, chunk: int, out: np.ndarray) -> None:
        num_rows = self.rows_in(chunk)
        stored = QuantisedRows(*(part.view_chunk(chunk)[:num_rows] for part in self._parts))
        if stored.outlier_index.max(initial=0) >= self.width:
            raise CorruptDataError(f"chunk {chunk} of {self.array.name} names a channel that its rows do not have")
        reconstruct(stored, self._channels, out[:num_rows])
        out[num_rows:] = 0

    def shard(self, number: int) -> ShardReader:
        return self._parts[0].shard(number)

    def will_need(self, chunk: int) -> None:
        for part in self._parts:
            part.will_need(chunk)
