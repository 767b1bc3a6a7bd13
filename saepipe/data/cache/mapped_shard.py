"""A shard file that is mapped into memory."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saepipe.data.cache import codecs
from saepipe.data.cache.few_maps import FEW_MAPS
from saepipe.data.cache.shard_reader import ShardReader
from saepipe.data.cache.shards import CRC_BYTES, RowArray, chunks_digest
from saepipe.data.errors import CorruptDataError


class MappedShard(ShardReader):
    """A memory-mapped shard file with a checked index. Chunks are checked on first use.

    A process keeps few files mapped. One that has changed when it is mapped again is checked again.
    """

    def __init__(self, array: RowArray, path: Path, expected: Mapping[str, Any]) -> None:
        """Maps `path`; `expected` is its entry in the manifest.

        Raises:
            CorruptDataError: if the file is missing, of the wrong size, or not the shard that the manifest lists.
        """
        super().__init__(array, path, expected["bytes"])
        self._path, self._expected = path, expected
        self._version: tuple[int, int] | None = None  # of the file that was checked
        self._map: mmap.mmap | None = None
        self._mapped()

    @property
    def is_mapped(self) -> bool:
        """Returns whether the file is mapped now, and so would be read even if it was removed."""
        return self._map is not None

    def unmap(self) -> None:
        """Lets go of the map, which ends with the last view of it; the next use maps the file again."""
        self._map = None

    def open(self) -> None:
        pass

    def chunk(self, index: int) -> memoryview:
        """The encoded bytes of a chunk, zero-copy; the first call checks its crc32c."""
        mapped = self._mapped()
        offset, size = self._span(self._entries, index)
        data = memoryview(mapped)[offset : offset + size]
        if not self._checked[index]:
            if not codecs.check(data):
                raise self._damaged(f"has a damaged chunk {index} (crc32c differs)")
            self._checked[index] = True
        return data

    def will_need(self, index: int) -> None:
        """Asks the kernel to read chunk `index` ahead."""
        mapped = self._mapped()
        offset, size = self._span(self._entries, index)
        start = offset - offset % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, start, offset + size - start)

    def _mapped(self) -> mmap.mmap:
        if (mapped := self._map) is None:
            mapped = self._map = self._map_file()
        FEW_MAPS.use(self)
        return mapped

    def _map_file(self) -> mmap.mmap:
        """Maps the file, and checks it unless it is the one that was checked before."""
        status = self._path.stat() if self._path.is_file() else None
        if status is None or status.st_size != self._num_bytes:
            problem = "is missing" if status is None else f"has {status.st_size:,} bytes, not {self._num_bytes:,}"
            raise CorruptDataError(f"shard {self._path} {problem}", hint="saepipe cache verify lists all damage")
        if status.st_size < self._array.index_bytes:
            raise self._damaged("is too short for its index")
        with self._path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if (version := (status.st_ino, status.st_mtime_ns)) != self._version:
            self._check(memoryview(mapped))
            self._version = version
        return mapped

    def _check(self, view: memoryview) -> None:
        self._entries = self._spans(view[-self._array.index_bytes :])
        self._check_headers(view)
        checksums = [view[offset + size - CRC_BYTES : offset + size] for offset, size in self._entries]
        if chunks_digest(checksums) != self._expected["chunks"]:
            raise self._damaged("is not the shard that the manifest lists (chunk checksums differ)")
        self._checked = [False] * len(self._entries)

    def _check_headers(self, view: memoryview) -> None:
        """Raises CorruptDataError if a chunk would not decode to a chunk's size."""
        array = self._array
        if codecs.is_raw(array.profile):
            return
        for number, (offset, size) in enumerate(self._entries):
            body = view[offset : offset + size - CRC_BYTES]
            if problem := codecs.header_problem(body, array.itemsize, array.chunk_bytes):
                raise self._damaged(f"has a chunk {number} that cannot be decoded: {problem}")
