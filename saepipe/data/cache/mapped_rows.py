"""The rows of a finished cache, memory-mapped where they are files, decoded by chunk into the caller's buffers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from saepipe.data.cache.codecs import is_raw
from saepipe.data.cache.open_shard import open_shard
from saepipe.data.cache.shard_reader import ShardReader
from saepipe.data.cache.shards import RowArray
from saepipe.data.errors import CorruptDataError

Files = Mapping[str, Mapping[str, Any]]
"""Manifest entry of each file of a cache, by its path in the cache."""

READ_AHEAD = 16
"""Number of chunks that are asked for before they are read in stored order."""


class MappedRows:
    """A row array, (num_rows, *row_shape). Shards are opened and checked on first use. Thread-safe."""

    def __init__(self, folder: Path, name: str, files: Files) -> None:
        """Opens the array `name` of the cache at `folder`.

        Raises:
            CorruptDataError: if the manifest lists fewer shards than the array's shape requires, or one that cannot
                hold its rows.
        """
        self.array, self.num_rows = RowArray.open(folder, name)
        self.dtype = self.array.dtype
        self.chunk_rows = self.array.chunk_rows
        self.num_chunks = -(-self.num_rows // self.chunk_rows)
        self.folder, self._files = folder, files
        self._shards: dict[int, ShardReader] = {}
        self._lock = Lock()
        for shard in range(self.array.num_shards(self.num_rows)):
            name = self.array.file(shard)
            if name not in files:
                raise CorruptDataError(f"the manifest of {folder} does not list shard {name}")
            rows = min(self.array.shard_rows, self.num_rows - shard * self.array.shard_rows)
            if not self.array.can_fill(rows, size := files[name]["bytes"]):
                raise CorruptDataError(f"shard {folder / name} of {size:,} bytes cannot hold {rows:,} rows")

    @property
    def name(self) -> str:
        """Path of the array in its cache."""
        return self.array.name

    @property
    def shards(self) -> Files:
        """Manifest entry of each shard that holds a part of the rows."""
        names = map(self.array.file, range(self.array.num_shards(self.num_rows)))
        return {name: self._files[name] for name in names}

    @property
    def width(self) -> int:
        """Number of values in a row that is a vector."""
        return self.array.row_shape[0]

    @property
    def zero_copy(self) -> bool:
        """Returns whether `view_chunk` works, that is, whether files hold the rows uncompressed."""
        return is_raw(self.array.profile)

    def rows_in(self, chunk: int) -> int:
        """Number of rows in a chunk: chunk_rows, or fewer in the last one."""
        return min(self.chunk_rows, self.num_rows - chunk * self.chunk_rows)

    def read_chunk(self, chunk: int, out: np.ndarray) -> None:
        """Decodes a chunk into `out`, (chunk_rows, *row_shape); rows beyond the last one are zeros.

        Raises:
            CorruptDataError: if the shard is damaged; the message names it.
        """
        shard, index = divmod(chunk, self.array.chunks_per_shard)
        self.shard(shard).read(index, out)

    def view_chunk(self, chunk: int) -> np.ndarray:
        """Returns a read-only view of a chunk of a `zero_copy` array, (chunk_rows, *row_shape)."""
        assert self.zero_copy
        shard, index = divmod(chunk, self.array.chunks_per_shard)
        return self.shard(shard).view(index)

    def will_need(self, chunk: int) -> None:
        """Asks the kernel to read a chunk ahead, or the bucket for it or its shard."""
        shard, index = divmod(chunk, self.array.chunks_per_shard)
        self.shard(shard).will_need(index)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) in stored order, (stop - start, *row_shape)."""
        assert 0 <= start <= stop <= self.num_rows
        first, last = start // self.chunk_rows, -(-stop // self.chunk_rows)
        shards = range(first // self.array.chunks_per_shard, -(-last // self.array.chunks_per_shard))
        for shard in shards:
            self.will_need(max(first, shard * self.array.chunks_per_shard))
        for shard in shards:
            self.shard(shard).open()  # checks what it declares, before memory is asked for
        rows = np.empty(((last - first) * self.chunk_rows, *self.array.row_shape), self.dtype)
        for chunk in range(first, last):
            if chunk + READ_AHEAD < last:
                self.will_need(chunk + READ_AHEAD)
            at = (chunk - first) * self.chunk_rows
            self.read_chunk(chunk, rows[at : at + self.chunk_rows])
        return rows[start - first * self.chunk_rows : stop - first * self.chunk_rows]

    def take(self, index: np.ndarray) -> np.ndarray:
        """Returns the rows `index` (num,), in that order, (num, *row_shape); decodes each chunk once."""
        rows = np.empty((len(index), *self.array.row_shape), self.dtype)
        order = np.argsort(index, kind="stable")
        ascending = index[order]
        for chunk in np.unique(ascending // self.chunk_rows).tolist():
            start = chunk * self.chunk_rows
            span = slice(*np.searchsorted(ascending, [start, start + self.chunk_rows]))
            rows[order[span]] = self.read(start, start + self.rows_in(chunk))[ascending[span] - start]
        return rows

    def shard(self, number: int) -> ShardReader:
        """Returns what reads a shard; raises CorruptDataError if the shard is damaged."""
        with self._lock:
            if number not in self._shards:
                name = self.array.file(number)
                self._shards[number] = open_shard(self.array, self.folder, name, self._files[name])
            return self._shards[number]
