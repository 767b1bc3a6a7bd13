"""Pools of unfinished caches in a bucket, each listed by an object of its own until a manifest lists them all.

An object cannot be appended to, and sending the manifest after each pool would send every line again and again: with
3 kB per pool, 15 TB over 100,000 pools.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line
from saepipe.data.remote.bucket import Entry
from saepipe.data.remote.file_kinds import Entries, cache_of_pool
from saepipe.data.remote.shared_files import SharedFiles
from saepipe.data.remote.stored_objects import Listed


class ListedPools:
    """What the lists of pools below a mirror list; each is read once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[tuple[str, str | None], Entries] = {}

    def entries(self, objects: Mapping[str, Listed]) -> dict[str, Entry]:
        """Returns the files of all pools that are listed among the objects, by name."""
        lists = [(name, listed.e_tag) for name, listed in objects.items() if cache_of_pool(name) is not None]
        new = [key for key in lists if key not in self._read]
        names = [name for name, _ in new]
        texts = SharedFiles(self._folder).read_all(names, is_whole)  # empty: a manifest has them by now
        for (name, e_tag), text in zip(new, texts, strict=True):
            lines = artifact.parse_manifest(text, self._folder / name)
            self._read[name, e_tag] = entries_below(cache_of_pool(name) or "", lines)
        return {name: entry for key in lists for name, entry in self._read[key].items()}


def is_whole(text: bytes) -> bool:
    """Returns whether a pool's list has its end: the pool's own line."""
    return text.endswith(b"\n") and json.loads(text.splitlines()[-1]).get("kind") == "pool"


def entries_below(folder: str, lines: Iterable[Line]) -> dict[str, Entry]:
    """Returns the files that lines list, by their names in the mirror that has their artifact in `folder`."""
    files = {name: entry for line in lines for name, entry in line.get("files", {}).items()}
    return {f"{folder}/{name}": entry for name, entry in files.items()} if folder else files
