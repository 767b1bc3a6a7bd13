"""What a pass over a cache in a bucket takes: how much is here, how much will be kept here, and how much comes anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saepipe.data.bucket_address import Address, mirrored
from saepipe.data.cache.cache import Cache
from saepipe.data.remote.bucket import Entry
from saepipe.data.remote.shard_cache import shard_cache
from saepipe.data.terminal.display import readable_bytes


@dataclass(frozen=True)
class BucketReads:
    """Bytes of the shards of some hooks."""

    address: str
    num_bytes: int
    num_here: int
    """that need not be fetched"""
    num_kept: int
    """that are kept here whole, once they are fetched"""
    max_bytes: int
    """that may be kept, of all caches"""

    def __str__(self) -> str:
        bound = f"{readable_bytes(self.max_bytes)} may be (SAEPIPE_SHARDS_GB, or the disk)"
        shards = f"{self.address}: {readable_bytes(self.num_bytes)} of shards, of which"
        if self.num_kept == self.num_bytes:
            missing = readable_bytes(self.num_bytes - self.num_here)
            return f"{shards} {missing} are fetched, once, and kept here: {bound}"
        rest = readable_bytes(self.num_bytes - self.num_kept)
        return f"{shards} {readable_bytes(self.num_kept)} are kept here: {bound}; {rest} are fetched in every pass"


def bucket_reads(cache: Cache, hooks: Sequence[str]) -> list[BucketReads]:
    """Returns what a pass over the rows at some hooks takes, by address; nothing for caches in folders."""
    shards: dict[Address, list[Entry]] = {}
    for rows in map(cache.rows, hooks):
        if address := mirrored(rows.folder):
            shards.setdefault(address, []).extend(rows.shards.values())
    return [_reads(str(address), entries) for address, entries in shards.items()]


def _reads(address: str, entries: Sequence[Entry]) -> BucketReads:
    copies = shard_cache()
    num_here = sum(entry["bytes"] for entry in entries if copies.path(entry).exists())
    num_bytes, num_kept = sum(entry["bytes"] for entry in entries), copies.num_kept(entries)
    return BucketReads(address, num_bytes, num_here, num_kept, int(copies.max_bytes))
