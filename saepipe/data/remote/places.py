"""Places of artifacts: a local folder is itself, an address in a bucket is its mirror; each call is for both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from saepipe.data.bucket_address import address_of, mirrored
from saepipe.data.errors import LockedError, RemoteError
from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import Line
from saepipe.data.folders.atomic_folder import atomic_folder
from saepipe.data.folders.inside import Inside
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.claim import Claim
from saepipe.data.remote.claiming import Say, claimed
from saepipe.data.remote.mirror import mirror_of
from saepipe.data.remote.request_failures import MissingObjectError


def folder_of(path: Path | str) -> Path:
    """Returns the local folder of a place, which may not be there yet, or not be up to date."""
    address = address_of(path)
    return address.mirror if address else Path(path)


def read_from(path: Path | str) -> Path:
    """Returns the local folder of a place, brought up to date.

    Raises:
        RemoteError: if a bucket holds nothing there, or cannot be read.
    """
    folder = folder_of(path)
    if (mirror := mirror_of(folder)) and not mirror.pull():
        raise RemoteError(f"there is nothing at {mirror.address}", hint="check the address")
    return folder


def refresh(folder: Path) -> None:
    """Brings a local folder up to date if it mirrors a place, whether anything is there or not."""
    if mirror := mirror_of(folder):
        mirror.pull()


def refresh_as_is(folder: Path) -> None:
    """Makes the files of a mirror what the bucket holds, even if that is damaged."""
    if mirror := mirror_of(folder):
        mirror.pull(as_is=True)


def publish(folder: Path) -> None:
    """Sends what was made in a local folder, if it mirrors a place; the caller holds the folder's `writer_lock`."""
    if mirror := mirror_of(folder):
        mirror.publish()


def publish_later(folder: Path) -> None:
    """Starts to send what was made in a local folder, if it mirrors a place, and lets the caller go on.

    The caller holds the folder's `writer_lock`, whose end waits for it. Raises the errors of the call before.
    """
    if mirror := mirror_of(folder):
        mirror.publish_later()


def fetch(path: Path) -> None:
    """Brings one file up to date, if its path mirrors a place: it is gone if there is none."""
    if address := mirrored(path):
        try:
            artifact.write_file(path, bucket_of(address).read(address.key).content)
        except MissingObjectError:
            path.unlink(missing_ok=True)


def send_files(folder: Path, lines: Iterable[Line]) -> None:
    """Sends the files of lines that are about to be listed, if a folder mirrors a place."""
    if mirror := mirror_of(folder):
        mirror.send_files(lines)


def send(path: Path) -> None:
    """Sends one file that was written, if its path mirrors a place."""
    if address := mirrored(path):
        bucket_of(address).put(address.key, path)


def remove(folder: Path, names: Iterable[str]) -> None:
    """Removes files of an artifact, and of a mirror their objects, at once; the caller holds the folder's lock."""
    paths, mirror = Inside(folder), mirror_of(folder)
    for name in names:
        paths.path(name).unlink(missing_ok=True)
        if mirror and name in mirror.files.objects:
            mirror.files.remove([name])


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """Yields an `atomic_folder`; in a bucket, its files appear one by one."""
    refresh(out)
    with atomic_folder(out) as partial:
        yield partial
    publish(out)


@contextmanager
def folder_lock(folder: Path, waiting: Say | None = None, *, say: Say | None = None) -> Iterator[Claim | None]:
    """Holds the `artifact.writer_lock` of a folder and, of a mirror, the claim in the bucket: see `claimed`.

    Nothing is fetched or sent.

    Raises:
        LockedError: if another process writes the folder.
        RemoteError: if the bucket cannot be read or written.
    """
    with artifact.writer_lock(folder, waiting):
        if (address := mirrored(folder)) is None:
            yield None
        else:
            with claimed(address, waiting, say=say) as claim:
                yield claim


@contextmanager
def writer_lock(
    folder: Path, waiting: Say | None = None, *, say: Say | None = None, as_is: bool = False
) -> Iterator[None]:
    """Holds the `folder_lock` of an artifact; arguments and errors are the same.

    A mirror is brought up to date first, to what the bucket holds `as_is` if that may be damaged, and what was made is
    published at the end. If it ends by an error, only what `publish_later` has started is.
    """
    with folder_lock(folder, waiting, say=say) as claim:
        if (mirror := mirror_of(folder)) is None:
            yield
            return
        mirror.claim = claim
        mirror.pull(to_write=True, as_is=as_is)
        try:
            yield
        except Exception:
            with suppress(RemoteError):  # the first error is the reason
                mirror.flush()
            raise
        except BaseException:  # stopped: what was kept is kept in the bucket, or an error
            mirror.flush()
            raise
        mirror.publish()
        mirror.claim = None


@contextmanager
def joined(folder: Path) -> Iterator[Callable[[], object]]:
    """Holds the lock of a mirror whose claim a process of another machine has; yields what brings it up to date.

    Where a process that writes the same artifact holds the lock already, that one keeps the mirror up to date, and here
    nothing is done, as for a folder that mirrors nothing.
    """
    with ExitStack() as stack:
        if mirror := mirror_of(folder):
            try:
                stack.enter_context(artifact.writer_lock(folder))
            except LockedError:
                mirror = None
        yield partial(mirror.pull, to_write=True) if mirror else lambda: None


@contextmanager
def parts_lock(folder: Path, parts: Sequence[str], waiting: Say) -> Iterator[None]:
    """Holds the locks of some parts of a folder, and waits for them; of a mirror, that of the whole folder.

    Raises:
        RemoteError: if the bucket cannot be read or written.
    """
    with ExitStack() as locks:
        if mirror_of(folder):
            locks.enter_context(writer_lock(folder, waiting))
        else:
            for part in sorted(parts):
                locks.enter_context(artifact.writer_lock(folder, waiting, part))
        yield
