"""Output folders for other tools: they appear complete or not at all, and never replace different files."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from filecmp import cmp
from pathlib import Path

from saepipe.data.bucket_address import refuse_address
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import sync_folder


@contextmanager
def atomic_folder(out: Path) -> Iterator[Path]:
    """Yields a folder beside `out` to write into; renames it to `out` on success, and deletes it otherwise.

    If `out` already holds the same files, byte for byte, it stays untouched.

    Raises:
        ConfigError: if `out` holds anything else.
    """
    refuse_address(out)
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out} is not a folder", hint="choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f"{out.name}.partial-{platform.node()}-"
    _remove_left_over(out.parent, prefix)
    partial = out.with_name(f"{prefix}{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        if not out.exists() or not any(out.iterdir()):
            partial.rename(out)
            sync_folder(out.parent)
        elif not _same_files(partial, out):
            raise ConfigError(f"{out} holds something else", hint="choose another --out, or remove that folder")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _remove_left_over(folder: Path, prefix: str) -> None:
    """Removes what processes of this host that were killed left in `folder`; their ids end the names."""
    for path in folder.iterdir():
        pid = path.name.removeprefix(prefix)
        if path.name.startswith(prefix) and pid.isdecimal() and (int(pid) == os.getpid() or not _is_alive(int(pid))):
            shutil.rmtree(path, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True


def file_sizes(folder: Path) -> dict[str, int]:
    """Size in bytes of each file in a folder, by its relative path, sorted."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _same_files(left: Path, right: Path) -> bool:
    sizes = file_sizes(left)
    return sizes == file_sizes(right) and all(cmp(left / name, right / name, shallow=False) for name in sizes)
