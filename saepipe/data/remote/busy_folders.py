"""Folders that a process of this machine is writing: what they hold is newer than what the bucket does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from filelock import Timeout

from saepipe.data.folders import artifact
from saepipe.data.folders.artifact import LOG
from saepipe.data.remote.file_kinds import OWNER


def busy_folders(folder: Path) -> Iterator[str]:
    """Yields the folders below `folder` that are being written, relative to it; "" if it or one around it is."""
    logs = [*folder.rglob(LOG), *(parent / LOG for parent in folder.parents)]
    for log in logs:
        if (log / OWNER).exists():
            try:
                with artifact.file_lock(log / "lock", timeout=0):
                    continue
            except Timeout:
                inside = log.parent.is_relative_to(folder) and log.parent != folder
                yield log.parent.relative_to(folder).as_posix() if inside else ""
