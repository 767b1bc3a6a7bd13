"""A training that is killed."""

from __future__ import annotations

from saepipe.data.terminal.progress import Silent


class Killed(Exception):  # noqa: N818 - a crash, not an error
    pass


class KillAfter(Silent):
    """Crashes the process, as far as a test can, after so many batches."""

    def __init__(self, batches: int) -> None:
        super().__init__()
        self.left = batches

    def advance(self, amount: int, **figures: float) -> None:
        self.left -= amount > 0
        if self.left == 0:
            raise Killed
