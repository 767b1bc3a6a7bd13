"""A mirror: a local folder that holds what a folder of a bucket holds, but for shards, which come when they are read.

What counts is what the bucket holds. A mirror can be removed at any time, and what was not sent before its process died
is made again. Objects are sent before the manifest that lists them, and the manifest before its seal, which is put only
if there is none; a seal is removed before anything else changes. So a reader elsewhere sees a whole artifact or none.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import RLock

from saepipe.data.bucket_address import Address, mirrored
from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import COMMITTED, MANIFEST, Line
from saepipe.data.remote.bucket import Entry
from saepipe.data.remote.busy_folders import busy_folders
from saepipe.data.remote.claim import Claim
from saepipe.data.remote.file_kinds import Entries, is_chunk, is_head, is_seal, is_sent, is_shard, run_of_checkpoint
from saepipe.data.remote.listed_pools import ListedPools, entries_below
from saepipe.data.remote.mirrored_files import NUM_THREADS, MirroredFiles
from saepipe.data.remote.shard_cache import shard_cache
from saepipe.data.workers import Workers, in_parallel

ABANDONED_SECONDS = 24 * 3600.0
"""Age from which a file that is not whole is of a process that is gone."""


@dataclass(frozen=True)
class Changes:
    """Names of files by what the bucket lacks of them."""

    changed: Sequence[str]
    gone: Sequence[str]
    shards: dict[str, Entry]
    """files that are shards, which are given up once they are sent"""


class Mirror:
    """The mirror of one folder. Thread-safe."""

    def __init__(self, address: Address) -> None:
        self.address, self.folder = address, address.mirror
        self.claim: Claim | None = None
        self.files = MirroredFiles(address)
        self._pools = ListedPools(self.folder)
        self._lock = RLock()
        self._sending: Future[None] | None = None

    def pull(self, *, to_write: bool = False, as_is: bool = False) -> bool:
        """Fetches what differs, and removes what the bucket does not hold; returns whether it holds anything.

        Folders that a process of this machine is writing are newer here, and are left alone. Checkpoints come only
        `to_write`, which is to be called with the lock of the folder.

        Raises:
            CorruptDataError: if an object is not as its manifest lists it, unless the files are to be what the objects
                are, `as_is`.
            RemoteError: if the bucket cannot be read.
        """
        with self._lock:
            files = self.files
            before = dict(files.here())  # what comes later is newer than the listing
            files.list_objects()
            busy = () if to_write else tuple(f"{name}/" if name else "" for name in busy_folders(self.folder))
            names = [name for name in files.objects if is_sent(name) and not (busy and name.startswith(busy))]
            files.fetch([name for name in names if is_head(name)], {})
            entries = self.entries()
            files.fetch([name for name in names if self._is_wanted(name, entries, to_write)], entries, as_is=as_is)
            for name, path in before.items():
                if name not in files.objects and not (busy and name.startswith(busy)):
                    path.unlink(missing_ok=True)
            if to_write:
                _remove_abandoned(self.folder)
            return bool(files.objects)

    def publish(self) -> None:
        """Sends what was made here, and removes from the bucket what was removed here; then gives shards up.

        Raises:
            LockedError: if another process has taken over the claim, or sealed the artifact.
            RemoteError: if the bucket cannot be written to.
        """
        self.flush()
        self._send(self._changes())

    def publish_later(self) -> None:
        """Starts to do what `publish` does, once what was started before has ended; raises the errors of that."""
        self.flush()
        self._sending = _sender().submit(self._send, self._changes())

    def flush(self) -> None:
        """Waits until what `publish_later` has started is done; raises its errors."""
        if sending := self._sending:
            try:
                _sender().result(sending)
            finally:
                self._sending = None

    def _changes(self) -> Changes:
        """Returns what was made and removed here since it was last sent; raises LockedError without the claim."""
        with self._lock:
            if self.claim:
                self.claim.check()
            entries, here = self.entries(), dict(self.files.here())
            gone = [name for name in self.files.objects if name not in here and not self._stays(name, entries)]
            changed = [name for name, path in here.items() if not self.files.is_same(name, path)]
            return Changes(changed, gone, {name: entries[name] for name in here if is_shard(entries.get(name, {}))})

    def _send(self, changes: Changes) -> None:
        changed, gone, files = changes.changed, changes.gone, self.files
        with self._lock:
            files.remove([name for name in files.objects if is_seal(name) and name in {*gone, *changed}])
            in_parallel(files.send, [name for name in changed if not is_head(name)], NUM_THREADS, "send files")
            for name in sorted(filter(is_head, changed), key=is_seal):
                files.send(name)
            files.remove([name for name in gone if name in files.objects])
            self._give_up(changes.shards)

    def send_files(self, lines: Iterable[Line]) -> None:
        """Sends the files of lines that are about to be listed of an unfinished artifact.

        Looks at no other file, as `publish` does, so that it takes as long for the last pool of a cache as for the
        first.

        Raises:
            LockedError: if this process had the claim, and another has taken it over.
            RemoteError: if the bucket cannot be written to.
        """
        with self._lock:
            if self.claim:
                self.claim.check()
            entries = {name: entry for line in lines for name, entry in line.get("files", {}).items()}
            in_parallel(self.files.send, list(entries), NUM_THREADS, "send files")
            self._give_up(entries)

    def _give_up(self, entries: Entries) -> None:
        """Moves the shards among files that were sent to the local copies of shards."""
        for name, entry in entries.items():
            if is_shard(entry):
                shard_cache().adopt(self.folder / name, entry)

    def entries(self) -> Entries:
        """Returns what all manifests in the mirror list, and the pools of unfinished caches."""
        entries = self._pools.entries(self.files.objects)
        for path in self.folder.rglob(MANIFEST):
            prefix = path.parent.relative_to(self.folder).as_posix()
            entries |= entries_below("" if prefix == "." else prefix, artifact.read_manifest(path.parent))
        return entries

    def _is_wanted(self, name: str, entries: Entries, to_write: bool) -> bool:
        if (run := run_of_checkpoint(name)) is not None:
            return to_write and f"{run}/{COMMITTED}".lstrip("/") not in self.files.objects
        is_of_no_pool = is_chunk(name) and name not in entries  # and will be made again, or is being made
        return not (is_head(name) or is_shard(entries.get(name, {})) or is_of_no_pool)

    def _stays(self, name: str, entries: Entries) -> bool:
        """Returns whether an object without a file stays in the bucket."""
        fetched = self.files.was_here(name) and not is_shard(entries.get(name, {}))
        return not is_sent(name) or (not fetched and (name in entries or run_of_checkpoint(name) is not None))


def _remove_abandoned(folder: Path) -> None:
    """Removes what is left of downloads whose process has died; other processes may be writing younger ones."""
    for path in folder.rglob("*.partial"):
        with suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                path.unlink()


@cache
def _sender() -> Workers:
    """Returns the thread that sends while others go on: one for all mirrors, since they share the connection."""
    return Workers(1, "send files")


@cache
def mirror_at(address: Address) -> Mirror:
    return Mirror(address)


def mirror_of(folder: Path) -> Mirror | None:
    """Returns the mirror that a local folder is; None if it mirrors nothing."""
    return None if (address := mirrored(folder)) is None else mirror_at(address)
