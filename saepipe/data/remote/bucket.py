"""The objects of a bucket, through obstore: requests are retried within a bound, and failures say what to do.

Keys are relative to the bucket. obstore itself repeats a request that fails, with exponential backoff and jitter, and
continues a body that breaks off; what comes whole but wrong is asked for again here, or in `downloads`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from saepipe.data.bucket_address import Address
from saepipe.data.errors import CorruptDataError, MachineError, RemoteError
from saepipe.data.remote.client_options import client_options
from saepipe.data.remote.request_failures import (
    ATTEMPTS,
    PAST_THE_END,
    BrokenListingError,
    MissingObjectError,
    asked_again,
    explained,
)
from saepipe.data.remote.stored_objects import Listed, Stored, Version

RETRY_SECONDS = 120.0
"""Time for which a request is repeated; obstore alone would give up after some 3 seconds."""

Entry = Mapping[str, Any]
"""{"bytes", "xxh3"} of a file, as a manifest lists it."""


class Bucket:
    """The objects of one bucket. Thread-safe."""

    def __init__(self, address: Address) -> None:
        """Opens the bucket; the environment has the credentials and, for a server of one's own, the endpoint.

        Raises:
            MachineError: if obstore is not installed.
            RemoteError: if the environment lacks a setting.
        """
        try:
            import obstore
        except ImportError as error:
            message = f"{address} needs obstore, which is not installed"
            raise MachineError(message, hint="pip install 'saepipe[cloud]'") from error
        self._obstore: Any = obstore
        self._address = address
        backoff = {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=15), "base": 4}
        limits = {"max_retries": 1000, "retry_timeout": timedelta(seconds=RETRY_SECONDS), "backoff": backoff}
        with self._asking("open", ""):
            self._store: Any = self._obstore.store.from_url(
                str(address), retry_config=limits, client_options=client_options(address.scheme)
            )

    def list(self, prefix: str) -> dict[str, Listed]:
        """Returns the objects below a folder, by key."""

        def ask() -> dict[str, Listed]:
            with self._asking("list", prefix):
                pages = self._obstore.list(self._store, prefix or None)
                return {item["path"]: Listed.of(item["size"], item["e_tag"]) for page in pages for item in page}

        return asked_again(ask)

    def read(self, key: str) -> Stored:
        """Returns a small object; raises MissingObjectError if there is none."""
        with self._asking("read", key):
            answer = self._obstore.get(self._store, key)
            return Stored(bytes(answer.bytes()), Version.of(answer.meta), answer.meta["last_modified"])

    def read_ranges(self, key: str, starts: Sequence[int], sizes: Sequence[int]) -> Sequence[memoryview]:
        """Returns parts of an object, each by a request of its own.

        Raises:
            CorruptDataError: if the object ends before them, each time that it is asked for.
        """

        def ask() -> Sequence[memoryview]:
            with self._asking("read", key):  # ranges that are joined make obstore panic over a short answer
                parts = self._obstore.get_ranges(self._store, key, starts=starts, lengths=sizes, coalesce=0)
            if [len(part) for part in parts] != list(sizes):
                raise self.damaged(key, "ends too early")
            return [memoryview(part) for part in parts]

        return asked_again(ask)

    def parts(self, key: str) -> Iterator[Any]:
        """Yields the content of a large object piece by piece; one that breaks off is continued."""
        with self._asking("read", key):
            yield from self._obstore.get(self._store, key).stream(min_chunk_size=4 * 1024**2)

    def damaged(self, key: str, problem: str) -> CorruptDataError:
        """Returns the error for an object that was asked for often, and has a problem each time."""
        message = f"{self._address / key} {problem}, {ATTEMPTS} times"
        return CorruptDataError(message, hint="saepipe verify lists all damage")

    def put(self, key: str, content: bytes | Path) -> Version:
        """Writes an object, a large file in parts, and returns its version."""
        with self._asking("write", key):
            return Version.of(self._obstore.put(self._store, key, content))

    def put_if(self, key: str, content: bytes, version: Version | None) -> Version | None:
        """Writes an object if there is none, or if it still has this version; returns the new one, or None if not.

        A request whose answer was lost is sent again and then refused because of itself. So the content must say who
        wrote it, and what is there is read back: it is ours if the content is.
        """
        exceptions = self._obstore.exceptions
        refusals = [exceptions.AlreadyExistsError, exceptions.PreconditionError]
        if version is not None:
            refusals.append(FileNotFoundError)  # which S3 answers if the object is gone
        with self._asking("write", key):
            try:
                mode = "create" if version is None else version.mode
                return Version.of(self._obstore.put(self._store, key, content, mode=mode))
            except tuple(refusals):
                pass
        try:
            stored = self.read(key)
        except MissingObjectError:  # removed meanwhile
            return None
        is_ours = bool(stored.content) and content.startswith(stored.content)  # a short answer may have lost its end
        return stored.version if is_ours else None

    def copy(self, source: str, target: str) -> None:
        """Copies an object within the bucket, which sends nothing."""
        with self._asking("copy", source):
            self._obstore.copy(self._store, source, target)

    def delete(self, keys: Iterable[str]) -> None:
        """Removes objects; those that are gone already are no error."""
        keys = list(keys)
        try:
            if keys:
                with self._asking("delete", keys[0]):
                    self._obstore.delete(self._store, keys)  # up to 1000 in a request, where the store can do that
        except MissingObjectError:
            for key in keys:
                with suppress(MissingObjectError), self._asking("delete", key):
                    self._obstore.delete(self._store, key)

    @contextmanager
    def _asking(self, action: str, key: str) -> Iterator[None]:
        """Turns any failure of obstore into a RemoteError that names the address, the cause and the repetitions."""
        try:
            yield
        except FileNotFoundError as error:
            cause, hint = explained(error)
            raise MissingObjectError(f"cannot {action} {self._address / key}: {cause}", hint=hint) from error
        except self._obstore.exceptions.BaseError as error:
            cause, hint = explained(error)
            if any(words in cause for words in PAST_THE_END):
                raise self.damaged(key, f"ends too early ({cause})") from error
            kind = BrokenListingError if "invalid list response" in cause else RemoteError
            raise kind(f"cannot {action} {self._address / key}: {cause}", hint=hint) from error


@cache
def bucket_of(address: Address) -> Bucket:
    """Returns the bucket of an address."""
    return Bucket(Address(address.scheme, address.bucket, ""))
