"""The live display: at 80 columns the bar, the time left and whose figures they are stand whole."""

from __future__ import annotations

import json
import math
import re
from io import StringIO

import pytest
from rich.console import Console

from saepipe.data.terminal.progress import Bar

pytestmark = pytest.mark.quick

LONG = "probes of the model on canrager/amazon_reviews_mcauley_1and5_sentiment (SAEs: 12)"
FIGURES = {"loss": 0.123456, "l0": 31.4, "fvu": 0.2345, "dead": 12345.0}


def frames(width: int, task: str, *, of: str = "l1-half/seed-0") -> list[str]:
    """Returns the lines of each frame of a terminal: at the start, in the middle, and after a sentence."""
    console = Console(width=width, file=StringIO(), force_terminal=True, _environ={"TERM": "xterm"})
    bar = Bar(console)
    bar.start(task, 1000, "tokens")
    bar.advance(400, of=of, **FIGURES)
    bar.say("a sentence " * 20)
    bar.advance(600)
    bar.finish()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", console.file.getvalue()).replace("\r", "\n").split("\n")  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("task", ["train 9 runs", LONG])
def test_bar_and_time_left_are_whole(width: int, task: str) -> None:
    lines = frames(width, task)
    bars = [line for line in lines if "ETA" in line]
    assert bars
    for line in bars:
        assert re.search(r" [━─]{16} +\d+% ETA (-:--:--|\d+:\d\d:\d\d)$", line)
        assert len(line) < 80
    assert bars[-1].startswith(task[:20])
    assert "100%" in bars[-1]


@pytest.mark.parametrize("of", ["l1-half/seed-0", "a-variant-of-a-grid-with-a-very-long-name=0.123/seed-11"])
def test_the_figures_say_whose_they_are(of: str) -> None:
    (line, *_) = [line for line in frames(80, "train 9 runs", of=of) if "loss" in line]
    assert len(line) < 80
    assert line.startswith(f"  {of[:10]}")
    assert "seed-" in line[:32]
    for figure in ("loss 0.1235", "l0 31.4", "fvu 0.2345", "dead 1.234e+04"):
        assert re.search(rf"{re.escape(figure)}(  |$)", line), line


def test_every_line_of_a_frame_is_shorter_than_the_terminal() -> None:
    """A longer one would wrap, and the terminal would keep a row of every frame."""
    for width in (40, 80, 120):
        live = [line for line in frames(width, LONG) if line and "sentence" not in line]
        assert max(map(len, live)) < width


def test_a_narrow_terminal_has_a_shorter_bar() -> None:
    bars = [line for line in frames(30, LONG) if "ETA" in line]
    assert all(re.fullmatch(r"pro.* [━─]{5} +\d+% ETA (-:--:--|\d+:\d\d:\d\d)", line) for line in bars), bars


@pytest.mark.parametrize("narrower", [100, 50, 30])
def test_a_narrower_terminal_keeps_no_row_that_it_wrapped(narrower: int) -> None:
    written = StringIO()
    console = Console(width=100, file=written, force_terminal=True, _environ={"TERM": "xterm"})
    bar = Bar(console)
    bar.start(LONG, 1000, "tokens")
    bar.advance(400, of="l1-half/seed-0", **FIGURES)
    bar.say("before")
    printed = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.getvalue().rpartition("before\n")[2])
    start, console.width = written.tell(), narrower
    bar.say("after")
    erased = written.getvalue()[start:].partition("after")[0].count("\x1b[1A")
    bar.finish()
    assert erased + 1 == sum(math.ceil(len(line) / narrower) for line in printed.split("\n"))


def test_elsewhere_there_are_lines_of_json() -> None:
    console = Console(file=StringIO(), width=80)
    bar = Bar(console)
    bar.start("train 2 runs", 100, "tokens", done=50)
    bar.advance(50, of="l1/seed-0", loss=0.5)
    bar.finish()
    line = json.loads(console.file.getvalue())  # type: ignore[attr-defined]
    assert (line["done"], line["run"], line["loss"]) == (100, "l1/seed-0", 0.5)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_task_without_work_shows_nothing(terminal: bool) -> None:
    console = Console(width=80, file=StringIO(), force_terminal=terminal, _environ={"TERM": "xterm"})
    bar = Bar(console)
    bar.start("placebo", 0, "SAEs")
    bar.finish()
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
