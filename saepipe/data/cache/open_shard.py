"""Shards of a cache, wherever it is: in a folder, kept here whole, or left in the bucket."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from saepipe.data.cache.fetched_shard import FetchedShard
from saepipe.data.cache.mapped_shard import MappedShard
from saepipe.data.cache.ranged_shard import RangedShard
from saepipe.data.cache.shard_reader import ShardReader
from saepipe.data.cache.shards import RowArray
from saepipe.data.folders.inside import inside
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.downloads import download
from saepipe.data.remote.mirror import mirror_of
from saepipe.data.remote.shard_cache import shard_cache


def open_shard(array: RowArray, folder: Path, name: str, entry: Mapping[str, Any]) -> ShardReader:
    """Returns a reader of a shard, which is fetched and compared with the manifest's entry first if need be.

    A shard in a bucket is fetched whole while the local shard cache has room for it beside those that this process
    reads; of the others, each chunk is fetched whenever it is read.

    Raises:
        CorruptDataError: if it is a file, and not the shard that the manifest lists.
    """
    path, mirror = inside(folder, name), mirror_of(folder)
    if mirror is None or path.exists():
        return MappedShard(array, path, entry)
    address = mirror.address / name
    bucket = bucket_of(address)
    copy = shard_cache().keep(entry, lambda path: download(bucket, address.key, path, entry))
    return RangedShard(array, address, entry) if copy is None else FetchedShard(array, address, copy, entry)
