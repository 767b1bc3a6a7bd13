"""Earlier lengths of an extended cache: each stays a finished cache, in CACHE/ancestors/<start of its fingerprint>.

Extending a cache shuffles its partial last pools again, with more rows, and rewrites contexts, statistics and metadata.
So the files of a finished cache are first hard-linked into a folder of their own. Complete pools stay as they are and
share their disk space with the longer cache; without hard links (some network file systems, buckets) they are copied.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from saepipe.data.bucket_address import mirrored
from saepipe.data.cache.cache import Cache
from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line
from saepipe.data.remote.damaged_files import damaged_files
from saepipe.data.remote.mirrored_files import NUM_THREADS
from saepipe.data.remote.moving import copy_object
from saepipe.data.remote.places import publish, read_from
from saepipe.data.workers import in_parallel

FOLDER = "ancestors"


def keep_ancestor(cache: Path) -> Path:
    """Keeps the finished cache as it is now, before it is extended, and returns the folder."""
    fingerprint, lines = artifact.open_committed(cache, "cache")
    folder = _folder(cache, fingerprint)
    if artifact.is_committed(folder):
        return folder
    if mirrored(cache):
        _copy_in_bucket(cache, folder, list(_entries(lines)))
    else:
        unfinished = folder.with_suffix(".partial")
        shutil.rmtree(unfinished, ignore_errors=True)
        for name in [artifact.MANIFEST, *_entries(lines), artifact.COMMITTED]:
            _link(cache / name, unfinished / name)
        unfinished.rename(folder)
        artifact.sync_folder(folder.parent)
    return folder


def _copy_in_bucket(cache: Path, folder: Path, names: Sequence[str]) -> None:
    """Copies a cache within its bucket: first what is here with the manifest, which tells readers what is a shard."""
    shards = [name for name in names if not (cache / name).exists()]
    for name in (artifact.MANIFEST, *sorted({*names} - {*shards})):
        _link(cache / name, folder / name)
    publish(folder)
    in_parallel(lambda name: copy_object(cache / name, folder / name), shards, NUM_THREADS, "copy shards")
    _link(cache / artifact.COMMITTED, folder / artifact.COMMITTED)
    publish(folder)


def ancestors(cache: Path) -> list[Path]:
    """Returns the folders of a cache's earlier lengths."""
    return sorted(seal.parent for seal in (cache / FOLDER).glob(f"*/{artifact.COMMITTED}"))


def find_length(cache: Path, fingerprint: str) -> Path | None:
    """Returns the folder that is sealed with this fingerprint: the cache's own, or that of an earlier length."""
    cache = read_from(cache)
    folders = [folder for folder in (_folder(cache, fingerprint), cache) if artifact.is_committed(folder)]
    seals = {(folder / artifact.COMMITTED).read_text(errors="replace").strip(): folder for folder in folders}
    return seals.get(fingerprint)


def open_length(cache: Path, fingerprint: str) -> Cache:
    """Opens the cache at the length with this fingerprint, or as it is now. Raises like `Cache.open`."""
    return Cache.open(find_length(cache, fingerprint) or cache)


def whole_cache(path: Path) -> Path:
    """Returns the folder of the cache of which `path` is an earlier length, or `path` itself."""
    return path.parent.parent if path.parent.name == FOLDER else path


def damaged_ancestors(cache: Path) -> Iterator[str]:
    """Yields a sentence for each damaged file of an earlier length that is not also a file of the cache."""
    for folder in ancestors(cache):
        _, lines = artifact.open_committed(folder, "cache")
        for name, entry in _entries(lines).items():
            if not _same(folder / name, cache / name):
                yield from damaged_files(folder, [{"files": {name: entry}}])


def relink(cache: Path, lines: Iterable[Line], *, hashes: bool = False) -> None:
    """Gives earlier lengths the files of the cache that they lack or hold in a damaged state, if they list the same.

    Args:
        cache: the folder of the cache, in which files may be missing.
        lines: its manifest.
        hashes: in a bucket, also look for damage that leaves a file its size, which reads all files.
    """
    listed = _entries(lines)
    for folder in ancestors(cache):
        for name, entry in _entries(artifact.read_manifest(folder)).items():
            own, shared = folder / name, cache / name
            in_bucket = mirrored(shared) is not None and not shared.exists()
            if entry != listed.get(name) or not (in_bucket or shared.exists()) or _same(own, shared):
                continue
            if any(damaged_files(folder, [{"files": {name: entry}}], hashes=hashes or not in_bucket)):
                if in_bucket:
                    copy_object(shared, own)
                else:
                    own.unlink(missing_ok=True)
                    _link(shared, own)


def _folder(cache: Path, fingerprint: str) -> Path:
    return cache / FOLDER / fingerprint[:16]


def _entries(lines: Iterable[Line]) -> dict[str, dict[str, object]]:
    """Returns the manifest entry of each file, by name."""
    return {name: entry for line in lines for name, entry in line.get("files", {}).items()}


def _same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with artifact.atomic_file(target, source.stat().st_size) as partial:
            shutil.copyfile(source, partial)
