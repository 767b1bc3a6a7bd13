"""Looks now and then whether another rank has failed, while this one waits for what that one would have made.

torchrun ends all ranks of a machine when one of them fails, but not always those of other machines: a machine whose
restarts are used up leaves, and the others are not told. A rank that is killed says nothing here either.
"""

from __future__ import annotations

import time

from saepipe.data.ranks.group import LostRankError, raise_failure
from saepipe.data.ranks.launch import Ranks

SECONDS = 10.0
"""How long one look holds."""

GRACE_SECONDS = 20.0
"""Time for torchrun to start all ranks again, before this one ends by itself."""


class FailureWatch:
    """Whether other ranks of a command go on, as far as they say so in the store."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks, self._next = ranks, time.monotonic() + SECONDS

    def look(self) -> None:
        """Raises LostRankError if another rank has left with an error; looks only if the last look is long ago."""
        if self._ranks.size == 1 or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SECONDS
        try:
            raise_failure(self._ranks)
        except LostRankError:
            time.sleep(GRACE_SECONDS)
            raise
