"""A shard that is read chunk by chunk, from wherever its bytes come: its index, and the checks of what it holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import crc32c
import numpy as np

from saepipe.data.cache import codecs
from saepipe.data.cache.shards import CRC_BYTES, MISSING_SIZE, RowArray, unpacked_index
from saepipe.data.errors import CorruptDataError

Span = tuple[int, int]
"""Offset and size of an encoded chunk in its shard."""


class ShardReader(ABC):
    """A shard of a row array. Thread-safe; every chunk is checked before it is used."""

    def __init__(self, array: RowArray, name: object, num_bytes: int) -> None:
        """`name` stands for the shard in errors; `num_bytes` is the size of the whole shard."""
        self._array, self._name, self._num_bytes = array, name, num_bytes

    @abstractmethod
    def chunk(self, index: int) -> memoryview:
        """Returns the encoded bytes of a chunk; raises CorruptDataError if they are damaged."""

    @abstractmethod
    def open(self) -> None:
        """Waits until the shard's index is here; raises CorruptDataError if it is damaged."""

    @abstractmethod
    def will_need(self, index: int) -> None:
        """Asks for chunk `index` ahead, without waiting for it."""

    def read(self, index: int, out: np.ndarray) -> None:
        """Decodes chunk `index` into `out`, (chunk_rows, *row_shape)."""
        codecs.decode_into(self._array.profile, self.chunk(index), out)

    def view(self, index: int) -> np.ndarray:
        """Returns a read-only view of chunk `index` of an uncompressed shard, (chunk_rows, *row_shape)."""
        assert codecs.is_raw(self._array.profile)
        data = np.frombuffer(self.chunk(index)[:-CRC_BYTES], self._array.dtype)
        return data.reshape(-1, *self._array.row_shape)

    def _spans(self, tail: memoryview) -> list[Span]:
        """Returns the chunks that a shard's last bytes list; raises CorruptDataError if one cannot be there."""
        array, stop = self._array, self._num_bytes - self._array.index_bytes
        index = tail[:-CRC_BYTES]
        if crc32c.crc32c(index) != int.from_bytes(tail[-CRC_BYTES:], "little"):
            raise self._damaged("has a damaged index (crc32c differs)")
        spans = [(offset, size) for offset, size in unpacked_index(index) if size != MISSING_SIZE]
        raw = array.chunk_bytes + CRC_BYTES if codecs.is_raw(array.profile) else None
        for number, (offset, size) in enumerate(spans):
            if size <= CRC_BYTES or offset + size > stop or size != (raw or size):
                raise self._damaged(f"has an impossible index: chunk {number} of {size:,} bytes at {offset:,}")
        return spans

    def _span(self, spans: Sequence[Span], index: int) -> Span:
        if index >= len(spans):
            raise self._damaged(f"lacks chunk {index}")
        return spans[index]

    def _damaged(self, problem: str) -> CorruptDataError:
        hint = "saepipe cache verify lists all damage; harvest it again"
        return CorruptDataError(f"shard {self._name} {problem}", hint=hint)
