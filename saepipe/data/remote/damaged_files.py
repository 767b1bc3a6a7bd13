"""Damage among the files that a manifest lists, wherever they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line
from saepipe.data.folders.inside import check_name
from saepipe.data.remote.bucket import Entry, bucket_of
from saepipe.data.remote.downloads import digest
from saepipe.data.remote.mirror import Mirror, mirror_of
from saepipe.data.remote.request_failures import MissingObjectError


def damaged_files(folder: Path, lines: Iterable[Line], *, hashes: bool = True) -> Iterator[str]:
    """Yields what `artifact.damaged_files` yields, of a mirror about the objects in the bucket.

    With `hashes`, each of them is read. Sizes are those of the last listing.
    """
    if (mirror := mirror_of(folder)) is None:
        yield from artifact.damaged_files(folder, lines, hashes=hashes)
        return
    if not mirror.files.objects:
        mirror.files.list_objects()
    for line in lines:
        for name, entry in line.get("files", {}).items():
            check_name(folder, name)
            yield from _damage(mirror, name, entry, hashes)


def _damage(mirror: Mirror, name: str, entry: Entry, hashes: bool) -> Iterator[str]:
    address, listed = mirror.address / name, mirror.files.objects.get(name)
    if listed is None:
        yield f"{address} is missing"
    elif listed.num_bytes != entry["bytes"]:
        yield f"{address} has {listed.num_bytes:,} bytes, not {entry['bytes']:,}"
    elif hashes:
        try:
            if digest(bucket_of(address), address.key)["xxh3"] != entry["xxh3"]:
                yield f"{address} has other content than the manifest lists (xxh3 differs)"
        except MissingObjectError:
            yield f"{address} is missing"
