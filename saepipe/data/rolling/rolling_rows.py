"""The training rows of a rolling cache at one hook; reading those of a pool that is not there yet waits for it."""

from __future__ import annotations

from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.cache.shard_reader import ShardReader
from saepipe.data.rolling.open_pools import OpenPools


class RollingRows(MappedRows):
    """(num_rows, d_in) bfloat16 bits: the head's rows, then those of the pools behind it. Thread-safe."""

    def __init__(self, head: MappedRows, hook: str, pools: OpenPools) -> None:
        """Continues the rows of the head, which holds whole pools, up to the last row that `pools` will have."""
        self.folder, self.array, self.dtype, self.chunk_rows = head.folder, head.array, head.dtype, head.chunk_rows
        self.num_rows = pools.num_rows
        self.num_chunks = -(-self.num_rows // self.chunk_rows)
        self._head, self._hook, self._pools = head, hook, pools
        self._num_in_head = head.num_rows // self.array.shard_rows
        self._pool_shards = pools.pool_rows // self.array.shard_rows

    def will_need(self, chunk: int) -> None:
        """Asks the kernel to read a chunk ahead, if its pool is there."""
        shard, index = divmod(chunk, self.array.chunks_per_shard)
        if shard < self._num_in_head or self._pools.is_here(shard // self._pool_shards):
            self.shard(shard).will_need(index)

    def shard(self, number: int) -> ShardReader:
        if number < self._num_in_head:
            return self._head.shard(number)
        pool, shard = divmod(number, self._pool_shards)
        return self._pools.rows(pool, self._hook).shard(shard)
