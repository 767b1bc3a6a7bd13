"""How a stage tells its caller where it stands; the command line draws it, a notebook may ignore it."""

from __future__ import annotations

import json
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Drawn


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


class Bar(Silent):
    """A live bar with rate, figures and time to go; where there is no terminal, one JSON line every ten seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TaskProgressColumn(),
            TextColumn("{task.fields[shown]}"),
        )
        self._bar = Drawn(*columns, TimeRemainingColumn(), console=console)
        self._what, self._unit = "", ""
        self._done = self._resumed = self._total = 0

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self._what, self._unit, self._total = what, unit, total
        self._done = self._resumed = done
        self._figures: dict[str, float] = {}
        self._began = self._told = time.monotonic()
        if self._console.is_terminal:
            self._bar.start()
            self._task = self._bar.add_task(what, total=total, completed=done, shown="")

    def advance(self, amount: int, **figures: float) -> None:
        self._done = min(self._done + amount, self._total)  # a batch may hold more than is left to do
        self._figures = figures or self._figures
        if self._console.is_terminal:
            parts = [f"{self._rate():,.0f} {self._unit}/s"]
            parts += [f"{name} {value:,.4g}" for name, value in self._figures.items()]
            self._bar.update(self._task, completed=self._done, shown="  ".join(parts))
        elif time.monotonic() - self._told >= 10:
            self._tell()

    def finish(self) -> None:
        if self._console.is_terminal:
            self._bar.stop()
        elif self._what:
            self._tell()
        self._what = ""

    def _rate(self) -> float:
        return (self._done - self._resumed) / max(time.monotonic() - self._began, 1e-9)

    def _tell(self) -> None:
        self._told, rate = time.monotonic(), self._rate()
        eta = round((self._total - self._done) / rate) if rate else None
        line = {"task": self._what, "done": self._done, "of": self._total, "unit": self._unit, "per_s": round(rate)}
        self._console.file.write(json.dumps({**line, "eta_s": eta, **self._figures}) + "\n")
        self._console.file.flush()

    def say(self, message: str) -> None:
        super().say(message)
        self._console.print(message, markup=False, highlight=False)
