"""Room on a disk: what is free at the mount of a folder, and what the user's quota leaves of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from saepipe.data.errors import OutOfSpaceError


@dataclass(frozen=True)
class Room:
    """Bytes that a user may still write at a mount."""

    mount: Path
    num_bytes: int
    is_quota: bool = False
    """Whether the user's quota leaves less than the disk has."""

    def __str__(self) -> str:
        rest = "the quota leaves" if self.is_quota else "there are"
        return f"{rest} {readable_bytes(self.num_bytes)} at {self.mount}"


def room_at(folder: Path) -> Room:
    """Returns the room for files in a folder, which need not exist yet."""
    existing = next(path for path in (folder.resolve(), *folder.resolve().parents) if path.exists())
    mount = next(path for path in (existing, *existing.parents) if os.path.ismount(path))
    free, quota = shutil.disk_usage(existing).free, _quota(mount)
    return Room(mount, free) if quota is None or quota >= free else Room(mount, quota, is_quota=True)


def require_room(folder: Path, num_bytes: int, what: str, hint: str) -> None:
    """Refuses work whose output would not fit.

    Args:
        folder: where the output goes.
        num_bytes: bytes that will be written.
        what: names the output in the message.
        hint: what would make it smaller.

    Raises:
        OutOfSpaceError: if there is less room, with both numbers.
    """
    room = room_at(folder)
    if num_bytes > room.num_bytes:
        message = f"{what} needs {readable_bytes(num_bytes)}, but {room}"
        raise OutOfSpaceError(message, hint=f"free some disk space, choose another --out, or {hint}")


def readable_bytes(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:,.2f} GB" if num_bytes >= 1e7 else f"{num_bytes:,} bytes"


def _quota(mount: Path) -> int | None:
    """Bytes that the user's quota leaves at a mount, by the program `quota`; None if it cannot be asked."""
    if not (program := shutil.which("quota")):
        return None
    command = [program, "--no-wrap", "--raw-grace", "--filesystem", str(mount)]
    try:  # it exits with 1 if a limit is exceeded
        lines = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    left = []
    for line in lines:
        _, *cells = line.replace("*", " ").split() or [""]
        if len(cells) >= 3 and all(cell.isdecimal() for cell in cells[:3]):
            used, soft, hard = (1024 * int(cell) for cell in cells[:3])
            left += [max(0, limit - used) for limit in [hard or soft] if limit]
    return min(left, default=None)
