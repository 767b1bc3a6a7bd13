"""Folders that are made once: files appear by rename, `manifest.jsonl` lists them, `COMMITTED` seals the manifest.

Caches, runs and evaluations all use these functions. No digest covers the files under `log/` (times, host, locks), so
equal work gives equal bytes.
"""

from __future__ import annotations

import errno
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import stat
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import xxhash
from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from saepipe.data.bucket_address import refuse_address
from saepipe.data.errors import ConfigError, CorruptDataError, LockedError, machine_error
from saepipe.data.folders.inside import Inside, check_name
from saepipe.data.folders.lock_owner import owned, owner
from saepipe.data.ranks.kept import KEPT

MANIFEST = "manifest.jsonl"
COMMITTED = "COMMITTED"
LOG = "log"

_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP)

Line = dict[str, Any]
"""A manifest line. Its `files` maps each file's path in the folder to {"bytes": int, "xxh3": hex}."""


def write_file(path: Path, data: bytes | memoryview) -> None:
    """Writes a file atomically: temporary name, fsync, rename, fsync of the folder.

    Raises:
        OutOfSpaceError: if the disk is full.
    """
    with atomic_file(path, len(data)) as partial:
        partial.write_bytes(data)


@contextmanager
def atomic_file(path: Path, num_bytes: int, mark: str = "") -> Iterator[Path]:
    """Yields a temporary name for a file of about `num_bytes`, which is renamed to `path` once it is on disk.

    Processes that may write the file at once each need a `mark` of their own, for the name.

    Raises:
        OutOfSpaceError: if the disk is full.
    """
    refuse_address(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}{mark}.partial")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
    except BaseException as error:  # Ctrl-C, too, leaves no partial file
        with suppress(OSError):  # the reason is what the user needs, not that the rest of the file is still there
            partial.unlink(missing_ok=True)
        if known := machine_error(error, f"cannot write {path} ({num_bytes:,} bytes)"):
            raise known from error
        raise
    partial.rename(path)
    sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes indented JSON with `write_file`; rejects NaN and Inf."""
    write_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def sync_folder(folder: Path) -> None:
    """Makes renames in `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_file(path: Path) -> dict[str, Any]:
    """{"bytes", "xxh3"} of a file, as a manifest lists it."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, xxhash.xxh3_64)
    return {"bytes": path.stat().st_size, "xxh3": digest.hexdigest()}


def digest_bytes(data: bytes) -> dict[str, Any]:
    """{"bytes", "xxh3"} of the contents of a file to be written."""
    return {"bytes": len(data), "xxh3": xxhash.xxh3_64_hexdigest(data)}


def digest_files(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """The `files` of a manifest line."""
    paths = Inside(folder)
    return {name: digest_file(paths.path(name)) for name in sorted(names)}


def read_manifest(folder: Path) -> list[Line]:
    """Reads the manifest's lines; skips a torn last line (from a crash during append).

    Raises:
        CorruptDataError: if any line but the last is not JSON, or a line is malformed or names a file elsewhere.
    """
    path = folder / MANIFEST
    return parse_manifest(path.read_bytes(), path) if path.exists() else []


def parse_manifest(content: bytes, path: Path) -> list[Line]:
    """Does what `read_manifest` does with the content of the file at `path`, which is named in errors."""
    texts, folder = content.decode(errors="replace").split("\n"), path.parent
    lines: list[Line] = []
    for number, text in enumerate(texts[:-1], 1):  # text after the last newline is torn, or empty
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            if number < len(texts) - 1:
                raise CorruptDataError(f"{path}: line {number} is not JSON: {text[:60]!r}") from None
            continue
        if not _is_line(line):
            raise CorruptDataError(f"{path}: line {number} is not a line of a manifest: {text[:60]!r}")
        for name in line.get("files", {}):
            check_name(folder, name)
        lines.append(line)
    return lines


def _is_line(line: Any) -> bool:
    """Returns whether a line is an object whose `files`, if any, have a size and a digest each."""
    if not isinstance(line, dict) or not isinstance(files := line.get("files", {}), dict):
        return False
    return all(
        isinstance(entry, dict) and type(entry.get("bytes")) is int and isinstance(entry.get("xxh3"), str)
        for entry in files.values()
    )


def manifest_text(lines: Iterable[Line]) -> bytes:
    """Returns lines as a manifest holds them."""
    return "".join(json.dumps(line, sort_keys=True, allow_nan=False) + "\n" for line in lines).encode()


def append_manifest(folder: Path, line: Line) -> None:
    """Appends one line, and returns once it is on disk."""
    with (folder / MANIFEST).open("ab") as file:
        file.write(manifest_text([line]))
        file.flush()
        os.fsync(file.fileno())
    KEPT.add()


def rewrite_manifest(folder: Path, lines: Iterable[Line]) -> None:
    """Replaces the manifest, after removing the seal of a committed artifact."""
    (folder / COMMITTED).unlink(missing_ok=True)
    write_file(folder / MANIFEST, manifest_text(lines))


def commit(folder: Path) -> str:
    """Seals the folder: writes and returns the manifest's digest, which is the artifact's fingerprint."""
    digest = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()
    write_file(folder / COMMITTED, f"{digest}\n".encode())
    KEPT.add()
    return digest


def is_committed(folder: Path) -> bool:
    return (folder / COMMITTED).is_file()


def open_committed(folder: Path, kind: str) -> tuple[str, list[Line]]:
    """Returns fingerprint and manifest of a finished artifact; `kind` names it in errors.

    Raises:
        ConfigError: if there is no such folder.
        CorruptDataError: if it is unfinished, or its manifest is not the one that was sealed.
    """
    if not folder.is_dir():
        raise ConfigError(f"{kind} {folder} does not exist", hint="check the path")
    if not is_committed(folder):
        hint = "rerun the command that makes it"
        raise CorruptDataError(f"{kind} {folder} is not finished (it has no {COMMITTED})", hint=hint)
    sealed = (folder / COMMITTED).read_text(errors="replace").strip()
    path = folder / MANIFEST
    if not re.fullmatch("[0-9a-f]{64}", sealed):
        hint = f"restore a copy of {COMMITTED}, or make the {kind} again in another folder"
        raise CorruptDataError(f"{folder / COMMITTED} holds no digest: {sealed[:40]!r}", hint=hint)
    digest = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "(missing)"
    if digest != sealed:
        raise CorruptDataError(f"{path} was changed after {kind} {folder} was finished: {digest[:16]} != {sealed[:16]}")
    return sealed, read_manifest(folder)


def damaged_files(folder: Path, lines: Iterable[Line], *, hashes: bool = True) -> Iterator[str]:
    """Yields a sentence per listed file that is missing, of the wrong size or (with `hashes`) of different content.

    Raises:
        CorruptDataError: if a line names a file outside the folder.
    """
    paths = Inside(folder)
    for line in lines:
        for name, expected in line.get("files", {}).items():
            path = paths.path(name)
            if (size := _size(path)) is None:
                yield f"{path} is missing"
            elif size != expected["bytes"]:
                yield f"{path} has {size:,} bytes, not {expected['bytes']:,}"
            elif hashes and digest_file(path)["xxh3"] != expected["xxh3"]:
                yield f"{path} has other content than the manifest lists (xxh3 differs)"


def _size(path: Path) -> int | None:
    """Returns the size of a file; None if there is no file."""
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


@contextmanager
def writer_lock(folder: Path, waiting: Callable[[str], None] | None = None, part: str = "") -> Iterator[None]:
    """Lets only one process write an artifact at a time; a finished one that nobody can write to needs no lock.

    The lock ends with the process that holds it.

    Args:
        folder: the artifact.
        waiting: receives a sentence if another process holds the lock, which is then waited for. Without it, that is
            an error.
        part: of the folder that is locked, if its parts are written apart; by default all of it, which has another
            lock than its parts.

    Raises:
        LockedError: immediately, if another process holds the lock and `waiting` is None.
    """
    refuse_address(folder)
    path = folder / LOG / (f"{part}.lock" if part else "lock")
    with ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(file_lock(path, timeout=0))
            except Timeout:
                message = f"another process is writing {folder / part} ({owner(path)})"
                if waiting is None:
                    raise LockedError(message, hint="wait for it, or choose another --out") from None
                waiting(f"waiting: {message}")
                stack.enter_context(file_lock(path, timeout=-1))
            stack.enter_context(owned(path))
        except OSError as error:
            if error.errno not in _READ_ONLY or not is_committed(folder):
                raise
        yield


@contextmanager
def file_lock(path: Path, timeout: float) -> Iterator[None]:
    """Holds a lock between processes; on a file system without locks, by the existence of a file.

    Args:
        path: the lock's file.
        timeout: seconds to wait for it; -1 waits as long as it takes.

    Raises:
        Timeout: if another process holds it all the time.
        ConfigError: if there is a folder of that name.
    """
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, but must be the lock's file", hint="remove it")
    lock: BaseFileLock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in _NO_LOCKS:  # FileLock itself handles ENOSYS
            raise
        lock = SoftFileLock(f"{path}.soft")  # FileLock may have left a file at `path`, which is no lock
        lock.acquire(timeout=timeout)
    try:
        yield
    finally:
        lock.release()


@cache
def provenance() -> Mapping[str, str]:
    """Versions of the packages that numbers depend on, and saepipe's commit if it runs from a checkout."""
    names = ("saepipe", "torch", "transformers", "tokenizers", "datasets", "zarr", "numcodecs", "numpy")
    return {
        "python": platform.python_version(),
        **{name: _version(name) for name in names},
        "commit": _commit(),
    }


def _version(name: str) -> str:
    """Returns the version of an installed package; `datasets` may be missing where nothing reads text from a hub."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    if commit := os.environ.get("SAEPIPE_COMMIT"):  # set in images, which have no checkout
        return commit
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "not a checkout"
