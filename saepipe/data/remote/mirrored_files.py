"""Files of a local folder beside the objects of the same names: which are the same, and the transfer of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from saepipe.data.bucket_address import Address
from saepipe.data.errors import AGAIN, LockedError
from saepipe.data.folders import artifact
from saepipe.data.folders.inside import Inside
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.downloads import download
from saepipe.data.remote.file_kinds import Entries, is_seal, is_sent
from saepipe.data.remote.stored_objects import Listed
from saepipe.data.workers import in_parallel

NUM_THREADS = 8
"""Files that are sent or fetched at a time."""

IN_PARTS = 8 * 1024**2
"""Bytes from which a file is sent in parts; a smaller one may grow while it is sent."""

PART_BYTES = 5 * 1024**2
"""Bytes of a part; obstore's default."""

State = tuple[str | None, int, int]
"""e_tag of an object, and size and time of a file with its content."""


class MirroredFiles:
    """The files of a mirror, by their names below it."""

    def __init__(self, address: Address) -> None:
        self.objects: dict[str, Listed] = {}
        """as listed last and sent since"""
        self._address, self._folder = address, address.mirror
        self._same: dict[str, State] = {}
        self._unchecked: set[str] = set()  # fetched as they are, so that they may not be as listed

    def key(self, name: str) -> str:
        """Key of a file's object."""
        return (self._address / name).key

    def list_objects(self) -> None:
        """Asks the bucket which objects it holds."""
        start = len(self.key(""))
        listed = bucket_of(self._address).list(self._address.key)
        self.objects = {key[start:]: listed[key] for key in listed}

    def here(self) -> Iterator[tuple[str, Path]]:
        """Yields the files that are here, without those of the machine."""
        for path in self._folder.rglob("*"):
            name = path.relative_to(self._folder).as_posix()
            if is_sent(name) and path.is_file():
                yield name, path

    def is_same(self, name: str, path: Path) -> bool:
        """Returns whether a file is known to have the content of its object."""
        return path.is_file() and self._same.get(name) == self._state(name, path)

    def was_here(self, name: str) -> bool:
        """Returns whether there was a file with the content of its object."""
        return name in self._same

    def fetch(self, names: Sequence[str], entries: Entries, *, as_is: bool = False) -> None:
        """Fetches what is not here, or not the same.

        Args:
            names: of the files.
            entries: manifest entries of those that are listed.
            as_is: fetch what is not as listed, too; and do so if the file here is as listed, since its object may not.

        Raises:
            CorruptDataError: for an object that is not as listed, unless `as_is`.
        """
        paths = Inside(self._folder)

        def fetch(name: str) -> None:
            path, entry = paths.path(name), entries.get(name)
            is_same = self.is_same(name, path) and (as_is or name not in self._unchecked)
            is_listed = entry and not as_is and path.is_file() and artifact.digest_file(path).items() <= entry.items()
            if not (is_same or is_listed):
                size = {"bytes": self.objects[name].num_bytes}
                download(bucket_of(self._address), self.key(name), path, size if as_is else entry or size)
            self._same[name] = self._state(name, path)
            (self._unchecked.add if as_is and entry else self._unchecked.discard)(name)

        in_parallel(fetch, names, NUM_THREADS, "fetch files")

    def send(self, name: str) -> None:
        """Sends a file; raises LockedError if it is a seal, and there is one."""
        path, bucket = self._folder / name, bucket_of(self._address)
        _, num_bytes, time_ns = self._state(name, path)
        content = path.read_bytes() if num_bytes < IN_PARTS else path
        if is_seal(name):
            assert isinstance(content, bytes)
            if (version := bucket.put_if(self.key(name), content, None)) is None:
                raise LockedError(f"{self._address / name} was put by another process meanwhile", hint=AGAIN)
        else:
            version = bucket.put(self.key(name), content)
        self.objects[name] = listed = Listed.of(num_bytes, version.e_tag)
        self._same[name] = (listed.e_tag, num_bytes, time_ns)

    def remove(self, names: Iterable[str]) -> None:
        """Removes objects."""
        for name in names:
            bucket_of(self._address).delete([self.key(name)])
            del self.objects[name]
            self._same.pop(name, None)

    def _state(self, name: str, path: Path) -> State:
        status, listed = path.stat(), self.objects.get(name)
        return listed.e_tag if listed else None, status.st_size, status.st_mtime_ns
