"""A mirror: a local folder that holds what a folder of a bucket holds, but for shards, which come when they are read.

What counts is what the bucket holds. A mirror can be removed at any time, and what was not sent before its process died
is made again. Objects are sent before the manifest that lists them, and the manifest before its seal, which is put only
if there is none; a seal is removed before anything else changes. So a reader elsewhere sees a whole artifact or none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from threading import RLock

from filelock import Timeout

from saepipe.data.bucket_address import Address, mirrored
from saepipe.data.errors import LockedError
from saepipe.data.folders import artifact, lock_owner
from saepipe.data.folders.artifact import COMMITTED, LOG, MANIFEST, Line
from saepipe.data.folders.inside import Inside
from saepipe.data.remote.bucket import Entry, Listed, bucket_of
from saepipe.data.remote.claim import Claim
from saepipe.data.remote.shard_cache import shard_cache
from saepipe.data.workers import Workers

NUM_THREADS = 8
"""Files that are sent or fetched at a time."""

IN_PARTS = 8 * 1024**2
"""Bytes from which a file is sent in parts; a smaller one may grow while it is sent."""

PART_BYTES = 5 * 1024**2
"""Bytes of a part; obstore's default."""

_OWNER = f"lock{lock_owner.SUFFIX}"
_OF_THE_MACHINE = {"lock", "lock.soft", _OWNER, "claim"}
"""Files in a `log` that are about one machine, or about the bucket."""

_CHECKPOINTS = "checkpoints"

Entries = Mapping[str, Entry]
"""Manifest entry of each listed file, by its name in the mirror."""


class Mirror:
    """The mirror of one folder. Thread-safe."""

    def __init__(self, address: Address) -> None:
        self.address, self.folder = address, address.mirror
        self.claim: Claim | None = None
        self.objects: dict[str, Listed] = {}  # by name below the folder, as listed by the last pull and sent since
        self._same: dict[str, tuple[str | None, int, int]] = {}  # e_tag, size and time of files that are as the object
        self._lock = RLock()

    def pull(self, *, to_write: bool = False) -> bool:
        """Fetches what differs, and removes what the bucket does not hold; returns whether it holds anything.

        Folders that a process of this machine is writing are newer here, and are left alone. Checkpoints come only
        `to_write`, which is to be called with the lock of the folder.

        Raises:
            CorruptDataError: if an object is not as its manifest lists it.
            RemoteError: if the bucket cannot be read.
        """
        with self._lock:
            self.list_objects()
            busy = () if to_write else tuple(f"{name}/" if name else "" for name in self._busy())
            names = [name for name in self.objects if _is_sent(name) and not (busy and name.startswith(busy))]
            self._fetch([name for name in names if _is_head(name)], {})
            entries = self.entries()
            self._fetch([name for name in names if self._is_wanted(name, entries, to_write)], entries)
            for name, path in self._files():
                if name not in self.objects and not (busy and name.startswith(busy)):
                    path.unlink(missing_ok=True)
            return bool(self.objects)

    def publish(self) -> None:
        """Sends what was made here, and removes from the bucket what was removed here; then gives shards up.

        Raises:
            LockedError: if another process has taken over the claim, or sealed the artifact.
            RemoteError: if the bucket cannot be written to.
        """
        with self._lock:
            if self.claim:
                self.claim.check()
            entries, files = self.entries(), dict(self._files())
            gone = [name for name in self.objects if name not in files and not self._stays(name, entries)]
            changed = [name for name, path in files.items() if self._same.get(name) != self._state(name, path)]
            self._remove([name for name in self.objects if _is_seal(name) and name in {*gone, *changed}])
            in_parallel(self._send, [name for name in changed if not _is_head(name)])
            for name in sorted(filter(_is_head, changed), key=_is_seal):
                self._send(name)
            self._remove([name for name in gone if name in self.objects])
            self._give_up({name: entries[name] for name in files.keys() & entries.keys()})

    def append(self, lines: Iterable[Line]) -> None:
        """Sends the files of lines that the manifest of an unfinished artifact has got, and then the manifest.

        Looks at no other file, as `publish` does, so that it takes as long for the last pool of a cache as for the
        first, but for the length of the manifest.

        Raises:
            LockedError: if another process has taken over the claim.
            RemoteError: if the bucket cannot be written to.
        """
        with self._lock:
            if self.claim:
                self.claim.check()
            entries = {name: entry for line in lines for name, entry in line.get("files", {}).items()}
            in_parallel(self._send, list(entries))
            self._send(MANIFEST)
            self._give_up(entries)

    def _give_up(self, entries: Entries) -> None:
        """Moves the shards among files that were sent to the local copies of shards."""
        for name, entry in entries.items():
            if _is_shard(entry):
                shard_cache().adopt(self.folder / name, entry)

    def entries(self) -> Entries:
        """Returns what all manifests in the mirror list."""
        entries: dict[str, Entry] = {}
        for path in self.folder.rglob(MANIFEST):
            prefix = path.parent.relative_to(self.folder).as_posix()
            for line in artifact.read_manifest(path.parent):
                files = line.get("files", {})
                entries |= files if prefix == "." else {f"{prefix}/{name}": files[name] for name in files}
        return entries

    def key(self, name: str) -> str:
        """Key of a file's object."""
        return (self.address / name).key

    def list_objects(self) -> None:
        """Asks the bucket which objects it holds."""
        start = len(self.key(""))
        self.objects = {key[start:]: listed for key, listed in bucket_of(self.address).list(self.address.key).items()}

    def _files(self) -> Iterator[tuple[str, Path]]:
        for path in self.folder.rglob("*"):
            name = path.relative_to(self.folder).as_posix()
            if _is_sent(name) and path.is_file():
                yield name, path

    def _busy(self) -> Iterator[str]:
        """Yields the folders in or around the mirror that a process of this machine is writing."""
        logs = [*self.folder.rglob(LOG), *(folder / LOG for folder in self.folder.parents)]
        for log in logs:
            if (log / _OWNER).exists():
                try:
                    with artifact.file_lock(log / "lock", timeout=0):
                        continue
                except Timeout:
                    inside = log.parent.is_relative_to(self.folder) and log.parent != self.folder
                    yield log.parent.relative_to(self.folder).as_posix() if inside else ""

    def _is_wanted(self, name: str, entries: Entries, to_write: bool) -> bool:
        run, found, _ = f"/{name}".partition(f"/{_CHECKPOINTS}/")
        if found:
            return to_write and f"{run}/{COMMITTED}".lstrip("/") not in self.objects
        return not _is_head(name) and not _is_shard(entries.get(name, {}))

    def _stays(self, name: str, entries: Entries) -> bool:
        """Returns whether an object without a file stays in the bucket."""
        fetched = name in self._same and not _is_shard(entries.get(name, {}))
        return not _is_sent(name) or (not fetched and (name in entries or f"/{_CHECKPOINTS}/" in f"/{name}"))

    def _state(self, name: str, path: Path) -> tuple[str | None, int, int]:
        """Returns the entry of `_same` for a file that is as its object."""
        status, listed = path.stat(), self.objects.get(name)
        return listed.e_tag if listed else None, status.st_size, status.st_mtime_ns

    def _fetch(self, names: Iterable[str], entries: Entries) -> None:
        paths = Inside(self.folder)

        def fetch(name: str) -> None:
            path, entry = paths.path(name), entries.get(name)
            if path.is_file():
                is_same = name in self._same and self._same[name] == self._state(name, path)
                if is_same or (entry and artifact.digest_file(path).items() <= entry.items()):
                    self._same[name] = self._state(name, path)
                    return
            bucket_of(self.address).download(self.key(name), path, entry or {"bytes": self.objects[name].num_bytes})
            self._same[name] = self._state(name, path)

        in_parallel(fetch, list(names))

    def _send(self, name: str) -> None:
        path, bucket = self.folder / name, bucket_of(self.address)
        _, num_bytes, time_ns = self._state(name, path)
        content = path.read_bytes() if num_bytes < IN_PARTS else path
        if _is_seal(name):
            assert isinstance(content, bytes)
            if (e_tag := bucket.put_if(self.key(name), content, None)) is None:
                message = f"{self.address / name} was put by another process meanwhile"
                raise LockedError(message, hint="run the same command again to see what it made")
        else:
            e_tag = bucket.put(self.key(name), content)
        self.objects[name], self._same[name] = Listed(num_bytes, e_tag), (e_tag, num_bytes, time_ns)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            bucket_of(self.address).delete([self.key(name)])
            del self.objects[name]
            self._same.pop(name, None)


@cache
def mirror_at(address: Address) -> Mirror:
    return Mirror(address)


def mirror_of(folder: Path) -> Mirror | None:
    """Returns the mirror that a local folder is; None if it mirrors nothing."""
    return None if (address := mirrored(folder)) is None else mirror_at(address)


def in_parallel(function: Callable[[str], None], names: list[str]) -> None:
    """Calls a function for each name, several at a time; raises the first error."""
    if not names:
        return
    workers = Workers(min(NUM_THREADS, len(names)), "transfer files")
    try:
        for call in [workers.submit(function, name) for name in names]:
            workers.result(call)
    finally:
        workers.close()


def _is_sent(name: str) -> bool:
    """Returns whether a file is one of the artifact's, as opposed to one of this machine's."""
    *folders, last = name.split("/")
    return not last.endswith(".partial") and not (folders[-1:] == [LOG] and last in _OF_THE_MACHINE)


def _is_head(name: str) -> bool:
    return name.rpartition("/")[2] in (MANIFEST, COMMITTED)


def _is_seal(name: str) -> bool:
    return name.rpartition("/")[2] == COMMITTED


def _is_shard(entry: Entry) -> bool:
    """Returns whether a manifest's entry is of a shard, which is read through `shards`."""
    return "chunks" in entry
