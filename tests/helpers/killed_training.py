"""Training runs that crash."""

from __future__ import annotations

from saepipe.data.terminal.progress import Silent


class Killed(Exception):  # noqa: N818 - a crash, not an error
    pass


class KillAfter(Silent):
    """Simulates a crash of the process after a number of batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.remaining = batches

    def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
        self.remaining -= amount > 0
        if self.remaining == 0:
            raise Killed
