"""How a stage tells its caller where it stands; the command line draws it, a notebook may ignore it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """One task at a time: `start`, then `advance` until `total`, then `finish`; `say` at any moment."""

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        """A task of `total` `unit`s (tokens, steps, contexts) begins; `done` of them were done earlier."""

    def advance(self, amount: int, **figures: float) -> None:
        """`amount` more units are done; `figures` are shown beside the rate (loss, l0, MB/s)."""

    def finish(self) -> None:
        """The task is over, whole or not."""

    def say(self, message: str) -> None:
        """A sentence for the user that must not be lost: a warning, a decision, a count of what was dropped."""


class Silent:
    """Draws nothing; keeps what was said, so that nothing is lost."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        pass

    def advance(self, amount: int, **figures: float) -> None:
        pass

    def finish(self) -> None:
        pass

    def say(self, message: str) -> None:
        self.said.append(message)
