"""Small artifacts of a shard and another file, in a folder or in a bucket."""

from __future__ import annotations

from pathlib import Path

from helpers.object_storage import ObjectStorage
from saepipe.data.folders import artifact
from saepipe.data.remote.places import folder_of, writer_lock

SHARD, SMALL = "acts/c/0", "zarr.json"


def make(folder: Path, shard: bytes = b"shard" * 100, *, seal: bool = True) -> artifact.Line:
    """Makes an artifact of a shard and a small file."""
    artifact.write_file(folder / SHARD, shard)
    artifact.write_file(folder / SMALL, b"{}")
    files = artifact.digest_files(folder, [SHARD, SMALL])
    files[SHARD]["chunks"] = "0"
    artifact.rewrite_manifest(folder, [line := {"files": files}])
    if seal:
        artifact.commit(folder)
    return line


def made(storage: ObjectStorage, name: str = "made") -> tuple[Path, artifact.Line]:
    """Makes an artifact in the bucket."""
    folder = folder_of(storage.at(name))
    with writer_lock(folder):
        line = make(folder)
    return folder, line
