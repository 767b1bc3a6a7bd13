"""A limit on this process's memory, as `ulimit -v` sets one, at which the system refuses more."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def address_space(extra: int) -> Iterator[None]:
    """Lets this process map `extra` bytes more than it has now, on Linux; larger arrays are mapped, each by itself."""
    status = Path("/proc/self/status").read_text().splitlines()
    now = 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmSize"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
