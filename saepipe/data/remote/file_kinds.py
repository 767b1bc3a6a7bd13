"""Kinds of files in an artifact, by their names and manifest entries: they differ in when they are sent and fetched."""

from __future__ import annotations

import re
from collections.abc import Mapping

from saepipe.data.folders import lock_owner
from saepipe.data.folders.artifact import COMMITTED, LOG, MANIFEST
from saepipe.data.remote.bucket import Entry

OWNER = f"lock{lock_owner.SUFFIX}"
_OF_THE_MACHINE = {"lock", "lock.soft", OWNER, "claim"}
"""Files in a `log` that are about one machine, or about the bucket, up to a "-"."""

_CHECKPOINTS = "checkpoints"
_CHUNK = re.compile(r"(^|/)c(/[0-9]+)+$")

RANKS, POOLS, TEXT, ENDED = "ranks", "pools", "text", "ended"
"""Folder of an unfinished cache, and its parts, by which ranks tell each other something."""

Entries = Mapping[str, Entry]
"""Manifest entry of each listed file, by its name in the mirror."""


def is_sent(name: str) -> bool:
    """Returns whether a file is one of the artifact's, as opposed to one of this machine's, or of ranks."""
    *folders, last = name.split("/")
    is_of_the_machine = folders[-1:] == [LOG] and last.partition("-")[0] in _OF_THE_MACHINE
    is_of_ranks = folders[-2:-1] == [RANKS] and folders[-1] in (POOLS, TEXT, ENDED)
    return not (last.endswith(".partial") or is_of_ranks or is_of_the_machine)


def cache_of_pool(name: str) -> str | None:
    """Returns the cache of which a file lists a pool: its folder in the mirror, or ""; None for any other file."""
    cache, found, _ = f"/{name}".rpartition(f"/{RANKS}/{POOLS}/")
    return cache.lstrip("/") if found else None


def is_head(name: str) -> bool:
    """Returns whether a file is a manifest or a seal, which are sent after the files that they are about."""
    return name.rpartition("/")[2] in (MANIFEST, COMMITTED)


def is_seal(name: str) -> bool:
    return name.rpartition("/")[2] == COMMITTED


def is_shard(entry: Entry) -> bool:
    """Returns whether a manifest's entry is of a shard, which is fetched only when it is read."""
    return "chunks" in entry


def is_chunk(name: str) -> bool:
    """Returns whether a file is named like a chunk or a shard of a zarr array."""
    return _CHUNK.search(name) is not None


def run_of_checkpoint(name: str) -> str | None:
    """Returns the run whose checkpoint a file belongs to: its folder in the mirror, or ""; None for any other file."""
    run, found, _ = f"/{name}".partition(f"/{_CHECKPOINTS}/")
    return run.lstrip("/") if found else None
