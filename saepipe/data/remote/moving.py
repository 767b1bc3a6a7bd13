"""Copies within a bucket, which send nothing: of an object, and of a folder that is moved to another name."""

from __future__ import annotations

from pathlib import Path

from saepipe.data.bucket_address import Address, mirrored
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.file_kinds import is_seal
from saepipe.data.remote.mirrored_files import NUM_THREADS
from saepipe.data.workers import in_parallel


def copy_object(source: Path, target: Path) -> None:
    """Copies an object to another key of its bucket; both are given by their paths in mirrors."""
    address, to = mirrored(source), mirrored(target)
    assert address, source
    assert to, target
    bucket_of(address).copy(address.key, to.key)


def move(folder: Path, target: Path) -> None:
    """Moves a folder to a place where there is nothing; in a bucket, nobody else may write it meanwhile."""
    if (address := mirrored(folder)) and (to := mirrored(target)):
        _move_objects(address, to)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(target)


def _move_objects(address: Address, target: Address) -> None:
    """Copies seals last and removes them first, so that what has one is whole."""
    bucket, start = bucket_of(address), len(f"{address.key}/")
    names = [key[start:] for key in bucket.list(address.key)]
    seals, others = [name for name in names if is_seal(name)], [name for name in names if not is_seal(name)]
    for part in (others, seals):
        in_parallel(
            lambda name: bucket.copy((address / name).key, (target / name).key), part, NUM_THREADS, "move files"
        )
    bucket.delete([(address / name).key for name in (*seals, *others)])
