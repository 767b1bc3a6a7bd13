"""Number of things that this process has kept on disk for good: checkpoints, pools, results, sealed folders.

A command that is stopped without any has made no progress: what it goes on from is what it began with.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Kept:
    """Count of what was kept."""

    number: int = 0

    def add(self) -> None:
        self.number += 1


KEPT = Kept()
"""Count of this process; in the first of several ranks, `leaving_together` makes it that of all."""
