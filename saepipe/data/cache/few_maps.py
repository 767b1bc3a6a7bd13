"""Keeps few of a process's files mapped: each map holds a file descriptor, and a large cache has more shards than that.

Many systems allow a process 1,024 descriptors (`ulimit -n`), and Linux 65,530 maps.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Protocol
from weakref import ref

MOST_MAPS = 256


class Unmappable(Protocol):
    """A file that is mapped again when it is needed."""

    def unmap(self) -> None:
        """Lets go of the map, which ends when nothing else uses it."""


class FewMaps:
    """The files whose maps were used most recently. Thread-safe."""

    def __init__(self, most: int = MOST_MAPS) -> None:
        self._most, self._lock = most, Lock()
        self._recent: OrderedDict[ref[Unmappable], None] = OrderedDict()

    def use(self, file: Unmappable) -> None:
        """Records that a file is used now, and unmaps that whose last use is the longest ago if there are too many."""
        with self._lock:
            self._recent[ref(file)] = None
            self._recent.move_to_end(ref(file))
            oldest = self._recent.popitem(last=False)[0]() if len(self._recent) > self._most else None
        if oldest is not None:
            oldest.unmap()


FEW_MAPS = FewMaps()
"""Of this process."""
