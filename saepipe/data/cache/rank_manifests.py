"""The manifests of ranks that write one cache together, until the first rank merges their lines into the cache's own.

Each rank appends only to a manifest of its own, so none waits for another.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line

FOLDER = "ranks"
"""What the ranks of an unfinished cache say to each other; a finished one has no such folder."""
_ENDED = "ended"


def listing_folder(cache: Path, rank: int) -> Path:
    """Returns the folder to whose manifest a rank appends; that of the first rank is the cache's own."""
    if rank == 0:
        return cache
    folder = cache / FOLDER / str(rank)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def read_lines(cache: Path) -> list[Line]:
    """Returns the lines of the cache's manifest, and those of the other ranks' pools that it does not have."""
    lines = artifact.read_manifest(cache)
    present = {(line["split"], line["pool"]) for line in lines if line["kind"] == "pool"}
    manifests = sorted((cache / FOLDER).glob(f"*/{artifact.MANIFEST}"))
    others = [line for path in manifests for line in artifact.read_manifest(path.parent)]
    return lines + [line for line in others if (line["split"], line["pool"]) not in present]


def has_ended(cache: Path, rank: int) -> None:
    """Notes that a rank other than the first needs nothing more of the folder."""
    (listing_folder(cache, rank) / _ENDED).touch()


def all_have_ended(cache: Path, num_ranks: int) -> bool:
    """Returns whether all ranks but the first have noted that."""
    return all((cache / FOLDER / str(rank) / _ENDED).exists() for rank in range(1, num_ranks))


def remove(cache: Path) -> None:
    """Removes the ranks' manifests, once the cache's own has their lines."""
    shutil.rmtree(cache / FOLDER, ignore_errors=True)
