"""Progress reports from a stage to its caller; the command line renders them, a notebook may ignore them."""

from __future__ import annotations

import json
import time
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress


class Progress(Protocol):
    """Progress of one task at a time: `start`, `advance` until `total`, then `finish`; `say` at any moment."""

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        """Starts a task of `total` `unit`s (tokens, steps, contexts), of which `done` were done earlier."""

    def advance(self, amount: int, **figures: float) -> None:
        """Counts `amount` more units as done; `figures` are shown beside the rate (loss, l0, MB/s)."""

    def finish(self) -> None:
        """Ends the task, complete or not."""

    def say(self, message: str) -> None:
        """Shows the user a sentence that must not be lost: a warning, a decision, a number of dropped rows."""


class Silent:
    """Renders nothing; keeps the messages in `said`."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        pass

    def advance(self, amount: int, **figures: float) -> None:
        pass

    def finish(self) -> None:
        pass

    def say(self, message: str) -> None:
        self.said.append(message)


class Bar(Silent):
    """A live bar with rate, figures and time left; without a terminal, one JSON line every ten seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            TaskProgressColumn(),
            TextColumn("{task.fields[shown]}"),
        )
        self._bar = RichProgress(*columns, TimeRemainingColumn(), console=console)
        self._task, self._unit = "", ""
        self._done = self._resumed = self._total = 0

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self._task, self._unit, self._total = task, unit, total
        self._done = self._resumed = done
        self._figures: dict[str, float] = {}
        self._began = self._last_line = time.monotonic()
        if self._console.is_terminal:
            self._bar.start()
            self._task_id = self._bar.add_task(task, total=total, completed=done, shown="")

    def advance(self, amount: int, **figures: float) -> None:
        self._done = min(self._done + amount, self._total)  # the last batch may exceed the total
        self._figures = figures or self._figures
        if self._console.is_terminal:
            parts = [f"{self._rate():,.0f} {self._unit}/s"]
            parts += [f"{name} {value:,.4g}" for name, value in self._figures.items()]
            self._bar.update(self._task_id, completed=self._done, shown="  ".join(parts))
        elif time.monotonic() - self._last_line >= 10:
            self._write_line()

    def finish(self) -> None:
        if self._console.is_terminal:
            self._bar.stop()
        elif self._task:
            self._write_line()
        self._task = ""

    def _rate(self) -> float:
        return (self._done - self._resumed) / max(time.monotonic() - self._began, 1e-9)

    def _write_line(self) -> None:
        self._last_line, rate = time.monotonic(), self._rate()
        eta = round((self._total - self._done) / rate) if rate else None
        line = {"task": self._task, "done": self._done, "of": self._total, "unit": self._unit, "per_s": round(rate)}
        self._console.file.write(json.dumps({**line, "eta_s": eta, **self._figures}) + "\n")
        self._console.file.flush()

    def say(self, message: str) -> None:
        super().say(message)
        self._console.print(message, markup=False, highlight=False)
