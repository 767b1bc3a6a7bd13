"""What the ranks that write one cache together list, until the first rank merges it into the cache's own manifest.

Each rank appends only to a manifest of its own, so none waits for another. In a bucket, where nothing can be appended
to, every pool has a list of its own instead, also if there is a single rank.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from saepipe.data.bucket_address import mirrored
from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line
from saepipe.data.ranks.kept import KEPT
from saepipe.data.remote.file_kinds import ENDED, POOLS, RANKS
from saepipe.data.remote.listed_pools import is_whole
from saepipe.data.remote.shared_files import SharedFiles

Pools = Collection[tuple[str, int]]
"""Pools by split and number."""


def list_pool(cache: Path, rank: int, lines: Sequence[Line]) -> None:
    """Lists a pool that a rank has made; the last line is the pool's."""
    if mirrored(cache):
        _pools(cache).write(_name(lines[-1]["split"], lines[-1]["pool"]), artifact.manifest_text(lines))
        KEPT.add()
        return
    folder = cache if rank == 0 else cache / RANKS / str(rank)
    folder.mkdir(parents=True, exist_ok=True)
    for line in lines:
        artifact.append_manifest(folder, line)


def read_lines(cache: Path, known: Pools = ()) -> list[Line]:
    """Returns the lines of the cache's manifest, and those of listed pools that it does not have, nor are `known`."""
    lines = artifact.read_manifest(cache)
    present = {(line["split"], line["pool"]) for line in lines if line["kind"] == "pool"} | {*known}
    others = _read_lists(cache, present) if mirrored(cache) else _read_manifests(cache)
    return lines + [line for line in others if (line["split"], line["pool"]) not in present]


def has_ended(cache: Path, rank: int) -> None:
    """Notes that a rank other than the first needs nothing more of the folder."""
    SharedFiles(cache / RANKS / ENDED).write(str(rank), b"")


def all_have_ended(cache: Path, num_ranks: int) -> bool:
    """Returns whether all ranks but the first have noted that."""
    return {*map(str, range(1, num_ranks))} <= {*SharedFiles(cache / RANKS / ENDED).names()}


def remove(cache: Path) -> None:
    """Removes all that ranks have listed and noted, once the cache's manifest has it."""
    SharedFiles(cache / RANKS).clear()


def _pools(cache: Path) -> SharedFiles:
    return SharedFiles(cache / RANKS / POOLS)


def _name(split: str, number: int) -> str:
    return f"{split}-{number:08d}.jsonl"


def _read_manifests(cache: Path) -> list[Line]:
    manifests = sorted((cache / RANKS).glob(f"*/{artifact.MANIFEST}"))
    return [line for path in manifests for line in artifact.read_manifest(path.parent)]


def _read_lists(cache: Path, present: Pools) -> list[Line]:
    lists = _pools(cache)
    known = {_name(split, number) for split, number in present}
    names = [name for name in lists.names() if name not in known]
    texts = zip(names, lists.read_all(names, is_whole), strict=True)
    return [line for name, text in texts for line in artifact.parse_manifest(text, cache / name)]
