"""A file system that refuses to be written to, for tests that may run as root, whom permissions do not stop."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.utime", "os.link", "os.symlink"}
_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC

_read_only: list[tuple[Path, int]] = []


@contextmanager
def read_only(folder: Path, number: int = errno.EROFS) -> Iterator[None]:
    """Lets Python code in this process change nothing below `folder`: the attempt raises OSError(number)."""
    if _refuse_writes not in _hooks:
        sys.addaudithook(_refuse_writes)  # stays for the life of the process, without effect on other folders
        _hooks.append(_refuse_writes)
    _read_only.append((folder.resolve(), number))
    try:
        yield
    finally:
        _read_only.pop()


def _refuse_writes(event: str, arguments: tuple[Any, ...]) -> None:
    if not _read_only or not (event in _WRITES or (event == "open" and (arguments[2] or 0) & _FLAGS)):
        return
    for argument in arguments[: 1 if event == "open" else 2]:  # the second one of `open` is the mode
        if not isinstance(argument, str | bytes | os.PathLike):
            continue
        path = Path(os.path.abspath(os.fsdecode(argument)))
        for folder, number in _read_only:
            if path.is_relative_to(folder) and not (event == "os.mkdir" and path.exists()):
                raise OSError(number, os.strerror(number), str(path))


_hooks: list[object] = []
