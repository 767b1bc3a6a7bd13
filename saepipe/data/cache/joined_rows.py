"""Rows of several hooks side by side: what a transcoder or a crosscoder reads at a token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import ConfigError


class BatchRows(Protocol):
    """Rows (num_rows, width) of bfloat16 bits that a stream of batches reads by chunk, from any thread."""

    num_rows: int
    chunk_rows: int
    num_chunks: int

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def zero_copy(self) -> bool:
        """Returns whether `view_chunk` works."""

    def rows_in(self, chunk: int) -> int: ...

    def read_chunk(self, chunk: int, out: np.ndarray) -> None: ...

    def view_chunk(self, chunk: int) -> np.ndarray: ...

    def will_need(self, chunk: int) -> None: ...


class JoinedRows:
    """Row n of each part, one after the other: (num_rows, sum of the parts' widths). Thread-safe."""

    zero_copy = False

    def __init__(self, parts: Sequence[MappedRows]) -> None:
        """Joins arrays that hold the same tokens.

        Raises:
            ConfigError: if they have different numbers of rows, or chunks of different sizes.
        """
        self.parts = tuple(parts)
        first = self.parts[0]
        for part in self.parts[1:]:
            if (part.num_rows, part.chunk_rows) != (first.num_rows, first.chunk_rows):
                raise ConfigError(
                    f"{part.name} has {part.num_rows:,} rows in chunks of {part.chunk_rows:,}, {first.name} has "
                    f"{first.num_rows:,} in chunks of {first.chunk_rows:,}",
                    hint="join hooks of one cache, or of caches made with the same text and chunk_rows",
                )
        self.num_rows, self.chunk_rows, self.num_chunks = first.num_rows, first.chunk_rows, first.num_chunks

    @property
    def name(self) -> str:
        return " + ".join(part.name for part in self.parts)

    @property
    def width(self) -> int:
        return sum(part.width for part in self.parts)

    def rows_in(self, chunk: int) -> int:
        """Number of rows in a chunk: chunk_rows, or fewer in the last one."""
        return self.parts[0].rows_in(chunk)

    def read_chunk(self, chunk: int, out: np.ndarray) -> None:
        """Decodes a chunk into `out`, (chunk_rows, width); raises as `MappedRows.read_chunk`."""
        start = 0
        for part in self.parts:
            # Chunks are decoded into memory without gaps, which a block of columns has.
            whole = np.empty((self.chunk_rows, part.width), out.dtype)
            part.read_chunk(chunk, whole)
            out[:, start : start + part.width] = whole
            start += part.width

    def view_chunk(self, chunk: int) -> np.ndarray:
        raise NotImplementedError("rows of several arrays lie in several files")

    def will_need(self, chunk: int) -> None:
        """Asks the kernel to read a chunk ahead."""
        for part in self.parts:
            part.will_need(chunk)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) in stored order, (stop - start, width)."""
        return np.concatenate([part.read(start, stop) for part in self.parts], axis=1)


def joined(parts: Sequence[MappedRows]) -> MappedRows | JoinedRows:
    """Returns rows with the parts side by side; a single part as it is."""
    return parts[0] if len(parts) == 1 else JoinedRows(parts)
