"""File descriptors: a command that locks many results holds one for each lock."""

from __future__ import annotations

import resource
from contextlib import suppress


def allow_open_files() -> None:
    """Raises this process's limit of open files (`ulimit -n`, often 1,024) as far as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS gives no limit, and takes none
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
