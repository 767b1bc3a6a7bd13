"""A shard in a bucket whose file is fetched whole, and then mapped like that of a folder."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

from saepipe.data.bucket_address import Address
from saepipe.data.cache.mapped_shard import MappedShard
from saepipe.data.cache.shard_reader import ShardReader
from saepipe.data.cache.shards import RowArray
from saepipe.data.remote.shard_cache import Copy


class FetchedShard(ShardReader):
    """A shard that the local shard cache keeps, or is about to."""

    def __init__(self, array: RowArray, address: Address, copy: Copy, expected: Mapping[str, Any]) -> None:
        """`copy` is that of the shard at `address`, and `expected` its entry in the manifest."""
        super().__init__(array, address, expected["bytes"])
        self._copy, self._expected = copy, expected
        self._mapped: MappedShard | None = None
        self._lock = Lock()

    def open(self) -> None:
        self._shard()

    def chunk(self, index: int) -> memoryview:
        return self._shard().chunk(index)

    def will_need(self, index: int) -> None:
        """Asks the bucket for the whole shard, or the kernel for the chunk."""
        if self._copy.is_here:
            self._shard().will_need(index)
        else:
            self._copy.begin()

    def _shard(self) -> MappedShard:
        if self._mapped is None or not self._mapped.is_mapped:
            path = self._copy.wait()  # may take long, so not in the lock; another process may have removed it
            with self._lock:
                self._mapped = self._mapped or MappedShard(self._array, path, self._expected)
        return self._mapped
