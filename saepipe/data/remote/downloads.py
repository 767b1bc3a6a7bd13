"""Objects that are read as a whole and compared with what a manifest lists of them."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import xxhash

from saepipe.data.folders.artifact import atomic_file
from saepipe.data.remote.bucket import Bucket, Entry
from saepipe.data.remote.request_failures import asked_again


def digest(bucket: Bucket, key: str) -> dict[str, Any]:
    """{"bytes", "xxh3"} of an object, which is read and not kept."""
    content, num_bytes = xxhash.xxh3_64(), 0
    for part in bucket.parts(key):
        content.update(part)
        num_bytes += len(part)
    return {"bytes": num_bytes, "xxh3": content.hexdigest()}


def download(bucket: Bucket, key: str, path: Path, expected: Entry) -> None:
    """Writes an object to a file, atomically; several processes may do so at once.

    Args:
        bucket: that holds it.
        key: of the object.
        path: of the file.
        expected: the entry of a manifest that lists it, or its size alone.

    Raises:
        CorruptDataError: if its content is not as listed, each time that it is asked for.
    """

    def ask() -> None:
        with atomic_file(path, expected["bytes"], f".{uuid.uuid4().hex[:8]}") as partial:
            _fill(partial, bucket, key, expected)

    asked_again(ask)


def _fill(path: Path, bucket: Bucket, key: str, expected: Entry) -> None:
    content, num_bytes = xxhash.xxh3_64(), 0
    with path.open("wb") as file:
        for part in bucket.parts(key):
            content.update(part)
            num_bytes += file.write(part)
    if num_bytes != expected["bytes"]:
        raise bucket.damaged(key, f"has {num_bytes:,} bytes, not {expected['bytes']:,}")
    if content.hexdigest() != expected.get("xxh3", content.hexdigest()):
        raise bucket.damaged(key, "has other content than the manifest lists (xxh3 differs)")
