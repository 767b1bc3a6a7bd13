"""Row arrays: zarr v3 arrays that grow along their first axis, one file per shard, each shard made of chunks of rows.

A shard has zarr's `sharding_indexed` layout: encoded chunks, then an index of (offset, bytes) per chunk as uint64, then
the index's crc32c. Plain zarr-python, tensorstore and zarrs read it. We write each shard in one piece ourselves,
because zarr-python rewrites the whole shard for each part appended to it.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import zarr

from saepipe.data.cache import codecs
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.few_maps import FEW_MAPS
from saepipe.data.cache.zarr_json import read_row_array
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.inside import inside

_ENTRY = struct.Struct("<QQ")
_MISSING = _ENTRY.pack(2**64 - 1, 2**64 - 1)
_CRC_BYTES = 4


@dataclass(frozen=True)
class RowArray:
    """Description of a row array, independent of its number of rows.

    `name` is its path in the group; a row has shape `row_shape` and numpy type `dtype`.
    """

    name: str
    dtype: str
    row_shape: tuple[int, ...]
    shard_rows: int
    chunk_rows: int
    profile: Profile
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.shard_rows % self.chunk_rows == 0, "a shard must hold whole chunks"

    @property
    def chunks_per_shard(self) -> int:
        return self.shard_rows // self.chunk_rows

    @property
    def itemsize(self) -> int:
        return np.dtype(self.dtype).itemsize

    @property
    def row_bytes(self) -> int:
        """Size of a decoded row."""
        return math.prod(self.row_shape) * self.itemsize

    @property
    def chunk_bytes(self) -> int:
        """Size of a decoded chunk."""
        return self.chunk_rows * self.row_bytes

    @property
    def index_bytes(self) -> int:
        """Size of the index at the end of a shard."""
        return self.chunks_per_shard * _ENTRY.size + _CRC_BYTES

    def can_fill(self, num_rows: int, file_bytes: int) -> bool:
        """Returns whether a shard of `num_rows` may have a file of `file_bytes`, by its codec's bounds."""
        num_chunks, encoded = -(-num_rows // self.chunk_rows), file_bytes - self.index_bytes
        if codecs.is_raw(self.profile):
            return encoded == num_chunks * (self.chunk_bytes + _CRC_BYTES)
        return encoded > 0 and num_chunks * self.chunk_bytes <= encoded * codecs.MAX_RATIO

    def file(self, shard: int) -> str:
        """Path of a shard's file in the group."""
        return "/".join([self.name, "c", str(shard), *("0" for _ in self.row_shape)])

    def num_shards(self, num_rows: int) -> int:
        return math.ceil(num_rows / self.shard_rows)

    def describe(self, group: Path, num_rows: int) -> str:
        """Writes the array's zarr.json for `num_rows` rows and returns its path in the group."""
        zarr.create_array(
            zarr.storage.LocalStore(group),
            name=self.name,
            shape=(num_rows, *self.row_shape),
            dtype=self.dtype,
            shards=(self.shard_rows, *self.row_shape),
            chunks=(self.chunk_rows, *self.row_shape),
            compressors=codecs.compressors(self.profile, np.dtype(self.dtype).itemsize),
            fill_value=0,
            attributes={**self.attributes, "saepipe_profile": self.profile},
            write_data=False,
            overwrite=False,
        )
        return f"{self.name}/zarr.json"

    @classmethod
    def open(cls, group: Path, name: str) -> tuple[RowArray, int]:
        """Reads the description of an existing array, and its number of rows.

        Raises:
            CorruptDataError: if it is missing, or does not describe an array that this class writes.
        """
        json = read_row_array(inside(group, f"{name}/zarr.json"))
        rows = cls(name, json.dtype, json.row_shape, json.shard_rows, json.chunk_rows, json.profile, json.attributes)
        return rows, json.num_rows

    def encode(self, rows: np.ndarray) -> bytes:
        """Encodes up to `shard_rows` rows, (rows, *row_shape), as a shard file.

        As in zarr, a partial last chunk is padded with zeros, and the chunks after it are marked missing.
        """
        assert 0 < len(rows) <= self.shard_rows
        assert rows.dtype == np.dtype(self.dtype)
        assert rows.shape[1:] == self.row_shape
        parts: list[bytes] = []
        index = bytearray()
        offset = 0
        for start in range(0, len(rows), self.chunk_rows):
            part = codecs.encode(self.profile, self._full_chunk(rows[start : start + self.chunk_rows]))
            index += _ENTRY.pack(offset, len(part))
            offset += len(part)
            parts.append(part)
        index += _MISSING * (self.chunks_per_shard - len(parts))
        return b"".join([*parts, index, crc32c.crc32c(index).to_bytes(_CRC_BYTES, "little")])

    def _full_chunk(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) == self.chunk_rows:
            return rows
        chunk = np.zeros((self.chunk_rows, *self.row_shape), rows.dtype)
        chunk[: len(rows)] = rows
        return chunk


class MappedShard:
    """A memory-mapped shard file with a checked index. Chunks are checked on first use.

    A process keeps few files mapped. One that has changed when it is mapped again is checked again.
    """

    def __init__(self, array: RowArray, path: Path, expected: Mapping[str, Any]) -> None:
        """Maps `path`; `expected` is its entry in the manifest.

        Raises:
            CorruptDataError: if the file is missing, of the wrong size, or not the shard that the manifest lists.
        """
        self._array, self._path, self._expected = array, path, expected
        self._version: tuple[int, int] | None = None  # of the file that was checked
        self._map: mmap.mmap | None = None
        self._mapped()

    def unmap(self) -> None:
        """Lets go of the map, which ends with the last view of it; the next use maps the file again."""
        self._map = None

    def _mapped(self) -> mmap.mmap:
        if (mapped := self._map) is None:
            mapped = self._map = self._map_file()
        FEW_MAPS.use(self)
        return mapped

    def _map_file(self) -> mmap.mmap:
        """Maps the file, and checks it unless it is the one that was checked before."""
        status = self._path.stat() if self._path.is_file() else None
        if status is None or status.st_size != self._expected["bytes"]:
            size = self._expected["bytes"]
            problem = "is missing" if status is None else f"has {status.st_size:,} bytes, not {size:,}"
            raise CorruptDataError(f"shard {self._path} {problem}", hint="saepipe cache verify lists all damage")
        with self._path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if (version := (status.st_ino, status.st_mtime_ns)) != self._version:
            self._check(memoryview(mapped))
            self._version = version
        return mapped

    def _check(self, view: memoryview) -> None:
        self._entries = self._read_index(view)
        self._check_entries(view)
        if chunks_digest(view, self._entries) != self._expected["chunks"]:
            raise self._damaged("is not the shard that the manifest lists (chunk checksums differ)")
        self._checked = [False] * len(self._entries)

    def _read_index(self, view: memoryview) -> list[tuple[int, int]]:
        start = len(view) - self._array.index_bytes
        if start < 0:
            raise self._damaged("is too short for its index")
        index = view[start:-_CRC_BYTES]
        if crc32c.crc32c(index) != int.from_bytes(view[-_CRC_BYTES:], "little"):
            raise self._damaged("has a damaged index (crc32c differs)")
        return [(offset, size) for offset, size in _ENTRY.iter_unpack(index) if size != 2**64 - 1]

    def _check_entries(self, view: memoryview) -> None:
        """Raises CorruptDataError if a chunk lies outside the encoded part, or would not decode to a chunk's size."""
        array, stop = self._array, len(view) - self._array.index_bytes
        raw = array.chunk_bytes + _CRC_BYTES if codecs.is_raw(array.profile) else None
        for number, (offset, size) in enumerate(self._entries):
            if size <= _CRC_BYTES or offset + size > stop or size != (raw or size):
                raise self._damaged(f"has an impossible index: chunk {number} of {size:,} bytes at {offset:,}")
            body = view[offset : offset + size - _CRC_BYTES]
            if not raw and (problem := codecs.header_problem(body, array.itemsize, array.chunk_bytes)):
                raise self._damaged(f"has a chunk {number} that cannot be decoded: {problem}")

    def chunk(self, index: int) -> memoryview:
        """The encoded bytes of a chunk, zero-copy; the first call checks its crc32c."""
        mapped = self._mapped()
        if index >= len(self._entries):
            raise self._damaged(f"lacks chunk {index}")
        offset, size = self._entries[index]
        data = memoryview(mapped)[offset : offset + size]
        if not self._checked[index]:
            if not codecs.check(data):
                raise self._damaged(f"has a damaged chunk {index} (crc32c differs)")
            self._checked[index] = True
        return data

    def read(self, index: int, out: np.ndarray) -> None:
        """Decodes chunk `index` into `out`, (chunk_rows, *row_shape)."""
        codecs.decode_into(self._array.profile, self.chunk(index), out)

    def view(self, index: int) -> np.ndarray:
        """Returns a read-only view of chunk `index` of an uncompressed shard, (chunk_rows, *row_shape)."""
        assert codecs.is_raw(self._array.profile)
        data = np.frombuffer(self.chunk(index)[:-_CRC_BYTES], self._array.dtype)
        return data.reshape(-1, *self._array.row_shape)

    def will_need(self, index: int) -> None:
        """Asks the kernel to read chunk `index` ahead."""
        mapped = self._mapped()
        offset, size = self._entries[index]
        start = offset - offset % mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, start, offset + size - start)

    def _damaged(self, problem: str) -> CorruptDataError:
        return CorruptDataError(
            f"shard {self._path} {problem}", hint="saepipe cache verify lists all damage; harvest it again"
        )


def describe_shard(array: RowArray, data: bytes) -> dict[str, Any]:
    """Manifest entry of a shard beyond its file's size and hash: a digest of its chunks' checksums.

    The digest can be checked without reading the whole shard, so swapped shards are noticed when they are mapped.
    """
    view = memoryview(data)
    start = len(view) - array.chunks_per_shard * _ENTRY.size - _CRC_BYTES
    entries = [entry for entry in _ENTRY.iter_unpack(view[start:-_CRC_BYTES]) if entry[1] != 2**64 - 1]
    return {"chunks": chunks_digest(view, entries)}


def chunks_digest(shard: memoryview, entries: list[tuple[Any, ...]]) -> str:
    """crc32c of the chunks' own crc32c values, in order, as hex."""
    value = 0
    for offset, size in entries:
        value = crc32c.crc32c(shard[offset + size - _CRC_BYTES : offset + size], value)
    return f"{value:08x}"
