"""Small files by which processes, of one machine or several, tell each other something."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from saepipe.data.bucket_address import mirrored
from saepipe.data.errors import AGAIN, CorruptDataError
from saepipe.data.folders.artifact import write_file
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.mirrored_files import NUM_THREADS
from saepipe.data.remote.request_failures import MissingObjectError, asked_again
from saepipe.data.workers import in_parallel


class SharedFiles:
    """The files of a folder that all processes see, by name; of a mirror, objects in the bucket without files here."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._address = folder, mirrored(folder)

    def pauses(self) -> Iterator[float]:
        """Yields the seconds to wait between looks at the same file: short pauses at first, then the longest."""
        seconds, longest = 0.05, 0.2 if self._address is None else 1.0
        while True:
            yield seconds
            seconds = min(1.5 * seconds, longest)

    def write(self, name: str, content: bytes) -> None:
        """Writes a file atomically."""
        if self._address is None:
            write_file(self._folder / name, content)
        else:
            bucket_of(self._address).put(self._key(name), content)

    def read(self, name: str) -> bytes | None:
        """Returns the content of a file; None if there is none."""
        try:
            if self._address is None:
                return (self._folder / name).read_bytes()
            return bucket_of(self._address).read(self._key(name))[0]
        except (FileNotFoundError, MissingObjectError):
            return None

    def read_whole(self, name: str, is_whole: Callable[[bytes], bool]) -> bytes | None:
        """Returns the content of a file, which is asked for again if the answer lacks its end; None if there is none.

        Raises:
            CorruptDataError: if it is not whole, each time that it is asked for.
        """

        def ask() -> bytes | None:
            content = self.read(name)
            if content is None or is_whole(content):
                return content
            raise CorruptDataError(f"{self._address or self._folder}/{name} ends too early", hint=AGAIN)

        return asked_again(ask)

    def read_all(self, names: Sequence[str], is_whole: Callable[[bytes], bool]) -> list[bytes]:
        """Returns the contents of files as `read_whole` does, several at a time; one that is gone counts as empty."""
        contents = dict[str, bytes]()

        def read(name: str) -> None:
            contents[name] = self.read_whole(name, is_whole) or b""

        in_parallel(read, names, NUM_THREADS, "read files")
        return [contents[name] for name in names]

    def names(self) -> list[str]:
        """Returns the names of all files that are written, in order."""
        if self._address is None:
            return sorted(path.name for path in self._folder.glob("*") if path.suffix != ".partial")
        start = len(self._key(""))
        return sorted(key[start:] for key in bucket_of(self._address).list(self._address.key))

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""
        if self._address is None:
            (self._folder / name).unlink(missing_ok=True)
        else:
            bucket_of(self._address).delete([self._key(name)])

    def clear(self) -> None:
        """Removes the folder with all that is below it."""
        if self._address is not None:
            bucket_of(self._address).delete([self._key(name) for name in self.names()])
        shutil.rmtree(self._folder, ignore_errors=True)

    def _key(self, name: str) -> str:
        assert self._address, self._folder
        return f"{self._address.key}/{name}"
