"""A shard file that is mapped into memory."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saepipe.data.cache import codecs
from saepipe.data.cache.shard_reader import ShardReader
from saepipe.data.cache.shards import CRC_BYTES, RowArray, chunks_digest
from saepipe.data.errors import CorruptDataError


class MappedShard(ShardReader):
    """A memory-mapped shard file with a checked index. Chunks are checked on first use."""

    def __init__(self, array: RowArray, path: Path, expected: Mapping[str, Any]) -> None:
        """Maps `path`; `expected` is its entry in the manifest.

        Raises:
            CorruptDataError: if the file is missing, of the wrong size, or not the shard that the manifest lists.
        """
        super().__init__(array, path, expected["bytes"])
        size = path.stat().st_size if path.is_file() else None
        if size is None or size != expected["bytes"]:
            problem = "is missing" if size is None else f"has {size:,} bytes, not {expected['bytes']:,}"
            raise CorruptDataError(f"shard {path} {problem}", hint="saepipe cache verify lists all damage")
        if size < array.index_bytes:
            raise self._damaged("is too short for its index")
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._view = memoryview(self._map)
        self._entries = self._spans(self._view[-array.index_bytes :])
        self._check_headers()
        if chunks_digest([self._crc(*span) for span in self._entries]) != expected["chunks"]:
            raise self._damaged("is not the shard that the manifest lists (chunk checksums differ)")
        self._checked = [False] * len(self._entries)

    def _check_headers(self) -> None:
        """Raises CorruptDataError if a chunk would not decode to a chunk's size."""
        array = self._array
        for number, (offset, size) in enumerate(self._entries):
            body = self._view[offset : offset + size - CRC_BYTES]
            if not codecs.is_raw(array.profile) and (
                problem := codecs.header_problem(body, array.itemsize, array.chunk_bytes)
            ):
                raise self._damaged(f"has a chunk {number} that cannot be decoded: {problem}")

    def _crc(self, offset: int, size: int) -> memoryview:
        return self._view[offset + size - CRC_BYTES : offset + size]

    def open(self) -> None:
        pass

    def chunk(self, index: int) -> memoryview:
        """The encoded bytes of a chunk, zero-copy; the first call checks its crc32c."""
        offset, size = self._span(self._entries, index)
        data = self._view[offset : offset + size]
        if not self._checked[index]:
            if not codecs.check(data):
                raise self._damaged(f"has a damaged chunk {index} (crc32c differs)")
            self._checked[index] = True
        return data

    def will_need(self, index: int) -> None:
        """Asks the kernel to read chunk `index` ahead."""
        offset, size = self._span(self._entries, index)
        start = offset - offset % mmap.PAGESIZE
        self._map.madvise(mmap.MADV_WILLNEED, start, offset + size - start)
