"""A shard in a bucket that is not kept here: its chunks come one by one when they are read, or ahead of that."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

from saepipe.data.bucket_address import Address
from saepipe.data.cache import codecs
from saepipe.data.cache.shard_reader import ShardReader, Span
from saepipe.data.cache.shards import CRC_BYTES, RowArray, chunks_digest
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.fetchers import fetchers
from saepipe.data.remote.request_failures import asked_again


@dataclass(frozen=True)
class _Head:
    """Index of a shard, and the checksums of its chunks, which are those of the shard that the manifest lists."""

    spans: list[Span]
    checksums: list[bytes]


class RangedShard(ShardReader):
    """A shard of which only chunks that were asked for ahead are in memory; each is given up when it is read."""

    def __init__(self, array: RowArray, address: Address, expected: Mapping[str, Any]) -> None:
        """`address` is that of the shard, and `expected` its entry in the manifest; no request is made."""
        super().__init__(array, address, expected["bytes"])
        self._bucket, self._key, self._digest = bucket_of(address), address.key, expected["chunks"]
        self._head: _Head | None = None
        self._fetches: dict[int, Future[memoryview]] = {}
        self._lock, self._opening = Lock(), Lock()

    def open(self) -> None:
        self._opened()

    def chunk(self, index: int) -> memoryview:
        with self._lock:
            fetch = self._fetches.pop(index, None)
        return self._fetch(index) if fetch is None else fetchers().result(fetch)

    def will_need(self, index: int) -> None:
        with self._lock:
            if index not in self._fetches:
                self._fetches[index] = fetchers().submit(self._fetch, index)

    def _fetch(self, index: int) -> memoryview:
        """Returns a chunk whose checksum is the manifest's; raises CorruptDataError if it has another each time."""
        head = self._opened()
        (offset, size), array = self._span(head.spans, index), self._array

        def ask() -> memoryview:
            (data,) = self._bucket.read_ranges(self._key, [offset], [size])
            if data[-CRC_BYTES:] != head.checksums[index] or not codecs.check(data):
                raise self._damaged(f"has a damaged chunk {index} (crc32c differs)")
            return data

        data = asked_again(ask)
        raw = codecs.is_raw(array.profile)
        if problem := None if raw else codecs.header_problem(data[:-CRC_BYTES], array.itemsize, array.chunk_bytes):
            raise self._damaged(f"has a chunk {index} that cannot be decoded: {problem}")
        return data

    def _opened(self) -> _Head:
        with self._opening:
            if self._head is None:
                self._head = asked_again(self._read_head)
            return self._head

    def _read_head(self) -> _Head:
        """Reads the index, and then the checksums that it points to."""
        if (start := self._num_bytes - self._array.index_bytes) < 0:
            raise self._damaged("is too short for its index")
        read = partial(self._bucket.read_ranges, self._key)
        spans = self._spans(read([start], [self._array.index_bytes])[0])
        ends = [offset + size - CRC_BYTES for offset, size in spans]
        checksums = [bytes(part) for part in read(ends, [CRC_BYTES] * len(ends))]
        if chunks_digest(checksums) != self._digest:
            raise self._damaged("is not the shard that the manifest lists (chunk checksums differ)")
        return _Head(spans, checksums)
