"""Live lines that replace themselves, also after the terminal was made narrower."""

from __future__ import annotations

from collections.abc import Callable

from rich.cells import cell_len
from rich.console import Console, ConsoleRenderable
from rich.control import Control
from rich.live import Live
from rich.segment import ControlType
from rich.text import Text

_UP_FROM_ERASED = ((ControlType.ERASE_IN_LINE, 2), (ControlType.CURSOR_UP, 1))


class LiveLines(Live):
    """Lines that are printed anew five times a second.

    A terminal that is made narrower wraps what it shows: tmux and most desktop terminals do. rich counts the rows that
    it printed, not those that they have become, and would leave the first of them behind.
    """

    def __init__(self, lines: Callable[[], Text], console: Console) -> None:
        self._lines = lines
        self._next = self._printed = ""
        super().__init__(console=console, refresh_per_second=5)  # asks for the first lines

    def get_renderable(self) -> Text:
        text = self._lines()
        self._next = text.plain
        return text

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        rows = super().process_renderables(renderables)
        added = sum(max(cell_len(line) - 1, 0) // self.console.width for line in self._printed.split("\n"))
        self._printed = self._next
        up = Control(ControlType.CARRIAGE_RETURN, *(_UP_FROM_ERASED * added))
        return [up, *rows] if added else rows
