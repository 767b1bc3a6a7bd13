"""Row arrays: zarr v3 arrays that grow along their first axis, one file per shard, each shard made of chunks of rows.

A shard has zarr's `sharding_indexed` layout: encoded chunks, then an index of (offset, bytes) per chunk as uint64, then
the index's crc32c. Plain zarr-python, tensorstore and zarrs read it. We write each shard in one piece ourselves,
because zarr-python rewrites the whole shard for each part appended to it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crc32c
import numpy as np
import zarr

from saepipe.data.cache import codecs
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.zarr_json import read_row_array
from saepipe.data.folders.inside import inside

_ENTRY = struct.Struct("<QQ")
MISSING_SIZE = 2**64 - 1
"""Size, and offset, by which an index says that a chunk was not written."""
_MISSING = _ENTRY.pack(MISSING_SIZE, MISSING_SIZE)
CRC_BYTES = 4


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
        return self.chunks_per_shard * _ENTRY.size + CRC_BYTES

    def can_fill(self, num_rows: int, file_bytes: int) -> bool:
        """Returns whether a shard of `num_rows` may have a file of `file_bytes`, by its codec's bounds."""
        num_chunks, encoded = -(-num_rows // self.chunk_rows), file_bytes - self.index_bytes
        if codecs.is_raw(self.profile):
            return encoded == num_chunks * (self.chunk_bytes + CRC_BYTES)
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
        return b"".join([*parts, index, crc32c.crc32c(index).to_bytes(CRC_BYTES, "little")])

    def _full_chunk(self, rows: np.ndarray) -> np.ndarray:
        if len(rows) == self.chunk_rows:
            return rows
        chunk = np.zeros((self.chunk_rows, *self.row_shape), rows.dtype)
        chunk[: len(rows)] = rows
        return chunk


def describe_shard(array: RowArray, data: bytes) -> dict[str, Any]:
    """Manifest entry of a shard beyond its file's size and hash: a digest of its chunks' checksums.

    The digest can be checked without reading the whole shard, so swapped shards are noticed when they are mapped.
    """
    view = memoryview(data)
    index = view[len(view) - array.index_bytes : -CRC_BYTES]
    ends = [offset + size for offset, size in unpacked_index(index) if size != MISSING_SIZE]
    return {"chunks": chunks_digest([view[end - CRC_BYTES : end] for end in ends])}


def unpacked_index(index: memoryview) -> Iterator[tuple[int, int]]:
    """Yields offset and size of each chunk that an index has room for."""
    return ((offset, size) for offset, size in _ENTRY.iter_unpack(index))


def chunks_digest(checksums: Iterable[bytes | memoryview]) -> str:
    """crc32c of the chunks' own crc32c values, in order, as hex."""
    value = 0
    for checksum in checksums:
        value = crc32c.crc32c(checksum, value)
    return f"{value:08x}"
