"""Progress reports from a stage to its caller; the command line renders them, a notebook may ignore them."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.text import Text

from saepipe.data.terminal.live_lines import LiveLines


class Progress(Protocol):
    """Progress of one task at a time: `start`, `advance` until `total`, then `finish`; `say` at any moment."""

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        """Starts a task of `total` `unit`s (tokens, steps, contexts), of which `done` were done earlier."""

    def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
        """Counts `amount` more units as done; shows `figures` (loss, l0, MB/s) and whose they are, `of`."""

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

    def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
        pass

    def finish(self) -> None:
        pass

    def say(self, message: str) -> None:
        self.said.append(message)


class OfRank(Silent):
    """Shows the sentences of another rank than the first, with its number, and no tasks."""

    def __init__(self, rank: int, progress: Progress) -> None:
        super().__init__()
        self._rank, self._progress = rank, progress

    def say(self, message: str) -> None:
        super().say(message)
        self._progress.say(f"rank {self._rank}: {message}")


WIDTH, BAR_WIDTH = 79, 16
"""Columns of the live display, and of the bar in it."""
LEAST_BAR_WIDTH, BESIDE_THE_BAR = 2, 24
"""Least columns of the bar, and those that a narrow terminal keeps for share, time left and some of the task."""


class Bar(Silent):
    """Live lines: task, bar and time left; rate; a run's figures. Without a terminal, a JSON line every ten seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._live: LiveLines | None = None
        self._task, self._unit = "", ""
        self._done = self._resumed = self._total = 0

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self.finish()
        self._task, self._unit, self._total = task if total else "", unit, total
        self._done = self._resumed = done
        self._of, self._figures = "", dict[str, float]()
        self._began = self._last_line = time.monotonic()
        if self._task and self._console.is_terminal:  # a task without work shows nothing
            self._live = LiveLines(self._lines, self._console)
            self._live.start()

    def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
        self._done = min(self._done + amount, self._total)  # the last batch may exceed the total
        if figures:
            self._of, self._figures = of, figures
        if self._live is None and time.monotonic() - self._last_line >= 10:
            self._write_line()

    def finish(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self._task:
            self._write_line()
        self._task = ""

    def _rate(self) -> float:
        return (self._done - self._resumed) / max(time.monotonic() - self._began, 1e-9)

    def _seconds_left(self) -> int | None:
        rate = self._rate()
        return round((self._total - self._done) / rate) if rate else None

    def _lines(self) -> Text:
        """Returns the lines, each shorter than the terminal and no longer than WIDTH."""
        width = min(self._console.width - 1, WIDTH)
        share = self._done / self._total if self._total else 1.0
        full, empty = "\u2501\u2500" if self._console.encoding.startswith("utf") else "#-"
        size = max(min(BAR_WIDTH, width - BESIDE_THE_BAR), LEAST_BAR_WIDTH)
        filled = round(share * size)
        left = self._seconds_left()
        eta = "-:--:--" if left is None else str(timedelta(seconds=left))
        tail = f" {full * filled}{empty * (size - filled)} {share:4.0%} ETA {eta}"
        task = shortened(self._task, width - len(tail))
        elapsed = timedelta(seconds=round(time.monotonic() - self._began))
        rate = f"  {self._rate():,.0f} {self._unit}/s  {elapsed} so far"
        lines = [f"{task}{tail}", rate[:width], *([self._figure_line(width)] if self._figures else [])]
        return Text("\n".join(lines), no_wrap=True)

    def _figure_line(self, width: int) -> str:
        """Returns whose figures they are, and as many whole ones as fit."""
        figures = [f"{name} {value:,.4g}" for name, value in self._figures.items()]
        room = width - 3 - sum(len(figure) + 2 for figure in figures)
        line = f"  {shortened(self._of, max(12, room))}:" if self._of else ""
        for figure in figures:
            if len(line) + 2 + len(figure) <= width:
                line += f"  {figure}"
        return line

    def _write_line(self) -> None:
        self._last_line = time.monotonic()
        line = {"task": self._task, "done": self._done, "of": self._total, "unit": self._unit}
        line |= {"per_s": round(self._rate()), "eta_s": self._seconds_left()}
        line |= {"run": self._of} if self._of else {}
        self._console.file.write(json.dumps({**line, **self._figures}) + "\n")
        self._console.file.flush()

    def say(self, message: str) -> None:
        super().say(message)
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)


def shortened(text: str, width: int) -> str:
    """Returns `text` in at most `width` columns, with dots for the middle that was left out."""
    if len(text) <= width:
        return text
    kept = max(width - 2, 0)
    return f"{text[: kept - kept // 3]}..{text[len(text) - kept // 3 :]}"[:width]
