"""A folder for another tool: it appears whole, or not at all, and never takes the place of something else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from filecmp import cmp
from pathlib import Path

from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import sync_folder


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Gives a folder beside `out` to write into; renamed to `out` when all went well, removed otherwise.

    Where `out` holds the same files already, to the byte, it is left as it is.

    Raises:
        ConfigError: if `out` holds something else.
    """
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise ConfigError(f"{out} is no folder", hint="choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f"{out.name}.partial-{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        if not out.exists() or not any(out.iterdir()):
            partial.rename(out)
            sync_folder(out.parent)
        elif not _same(partial, out):
            raise ConfigError(f"{out} holds something else", hint="choose another --out, or remove that folder")
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def written(folder: Path) -> dict[str, int]:
    """The files in a folder, by their path in it, with their bytes."""
    files = sorted(path for path in folder.rglob("*") if not path.is_dir())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _same(one: Path, other: Path) -> bool:
    names = written(one)
    return names == written(other) and all(cmp(one / name, other / name, shallow=False) for name in names)
