"""Who holds a lock: host, process and time, in a file beside the lock, for the messages of those who meet it."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

FILE = "lock.owner"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Says in `folder` that this process holds the lock there. A file that cannot be written costs only the message."""
    since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
    path = folder / FILE
    with suppress(OSError):
        path.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": since}) + "\n")
    try:
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def owner(folder: Path) -> str:
    """Returns "pid 123 on host, since ..." of the process that holds the lock in `folder`, as far as it is known."""
    try:
        known = json.loads((folder / FILE).read_bytes())
        return f"pid {known['pid']} on {known['host']}, since {known['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "not known which"
