"""Paths that a file names: they must lie inside the folder that they are about.

Everything that takes a name out of a file passes it through here before it opens, writes or removes anything.
"""

from __future__ import annotations

import os
from pathlib import Path

from saepipe.data.errors import CorruptDataError

LONGEST_NAME = 255
"""Bytes that a file system allows for one name."""

_HINT = "nothing was opened or removed; make or fetch the folder again, and do not trust where it came from"
_ELSEWHERE = {"", ".", ".."}


def inside(root: Path, name: str) -> Path:
    """Returns the path of `name` below `root`; for many names, `Inside` is faster.

    Raises:
        CorruptDataError: if the name is not a plain relative path, or a symbolic link on the way leads out of `root`.
    """
    return Inside(root).path(name)


def check_name(root: Path, name: object) -> None:
    """Raises CorruptDataError unless `name` is a plain relative path; does not look at the disk."""
    if not isinstance(name, str) or not _is_plain(name):
        text = repr(name)
        shown = text if len(text) <= 120 else f"{text[:120]}..."
        raise CorruptDataError(f"{root} names {shown}, which is not a path inside it", hint=_HINT)


class Inside:
    """Resolves names below one folder, and looks at each folder on the way only once."""

    def __init__(self, root: Path) -> None:
        self._root, self._text = root, str(root)
        self._no_links: set[str] = set()

    def path(self, name: str) -> Path:
        """Returns the path of `name`; raises CorruptDataError as `inside` does."""
        check_name(self._root, name)
        path = Path(self._text, name)
        if self._has_link(name) and not path.resolve().is_relative_to(self._root.resolve()):
            raise CorruptDataError(f"{path} lies outside {self._root}: a symbolic link leads out of it", hint=_HINT)
        return path

    def _has_link(self, name: str) -> bool:
        """Returns whether a part of the path below the root is a link; cheaper than resolving each path."""
        folder = name.rpartition("/")[0]
        if folder and folder not in self._no_links:
            if self._has_link(folder):
                return True
            self._no_links.add(folder)
        return os.path.islink(f"{self._text}/{name}")


def _is_plain(name: str) -> bool:
    """Returns whether a name consists of ordinary parts joined by `/`."""
    parts = name.split("/")
    if "\0" in name or not _ELSEWHERE.isdisjoint(parts):
        return False
    if len(name) * 4 <= LONGEST_NAME:  # bytes per character in UTF-8, at most
        return name.isascii() or _is_encodable(name)
    return _is_encodable(name) and all(len(os.fsencode(part)) <= LONGEST_NAME for part in parts)


def _is_encodable(name: str) -> bool:
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
