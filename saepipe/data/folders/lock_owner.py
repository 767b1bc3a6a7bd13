"""Who holds a lock: host, process and time, in a file beside the lock, for the messages of those who meet it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

SUFFIX = ".owner"


@contextmanager
def owned(lock: Path) -> Iterator[None]:
    """Says beside a lock that this process holds it. A file that cannot be written costs only the message."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    path = _beside(lock)
    with suppress(OSError):
        path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}) + "\n")
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def owner(lock: Path) -> str:
    """Returns "pid 123 on host, since ..." of the process that holds a lock, as far as it is known."""
    try:
        known = json.loads(_beside(lock).read_bytes())
        return f"pid {known['pid']} on {known['host']}, since {known['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "not known which"


def _beside(lock: Path) -> Path:
    return lock.with_name(f"{lock.name}{SUFFIX}")
