"""Terminal output of a command: its results on stdout; progress, messages and errors on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from io import TextIOWrapper
from typing import Any, Literal, TextIO

from rich.console import Console, RenderableType

from saepipe.data.bucket_address import shown
from saepipe.data.terminal.display import readable
from saepipe.data.terminal.progress import Bar, Progress, Silent
from saepipe.data.terminal.stage import reporting_to

Format = Literal["human", "json", "quiet"]


def escape_unprintable(stream: TextIO) -> None:
    """Lets a stream write what its encoding lacks as an escape; under `LC_ALL=C` that may be any letter but ASCII's."""
    if isinstance(stream, TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


escape_unprintable(sys.stdout)
escape_unprintable(sys.stderr)


class _Console(Console):
    """A console whose first output replaces the notice of `announce`, and which shows addresses for their mirrors."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        clear_notice()
        super().print(*(shown(part) if isinstance(part, str) else part for part in args), **kwargs)

    def print_json(self, json: str | None = None, **kwargs: Any) -> None:
        super().print_json(None if json is None else shown(json), **kwargs)


stdout = _Console(width=None if sys.stdout.isatty() else 240)  # a pipe has no width, but a table needs one
stderr = _Console(stderr=True)  # no soft_wrap, under which a live display repeats its lines


_announced = False


def announce(arguments: Sequence[str]) -> None:
    """Shows in a terminal that a command has begun, since loading its libraries may take seconds."""
    global _announced
    silent = {"json", "quiet", "--format=json", "--format=quiet", "--help"}
    if arguments and sys.stderr.isatty() and silent.isdisjoint(arguments):
        sys.stderr.write(f"saepipe {arguments[0]}: loading\r")
        sys.stderr.flush()
        _announced = True


def clear_notice() -> None:
    """Removes what `announce` shows."""
    global _announced
    if _announced:
        _announced = False
        sys.stderr.write("\r\x1b[2K")
        sys.stderr.flush()


def show(value: Mapping[str, Any], format_: Format) -> None:
    """Prints plain data on stdout: as JSON, or one line per key."""
    if format_ == "json":
        stdout.print_json(json.dumps(value))
    elif format_ == "human":
        for key, item in value.items():
            stdout.print(f"[bold]{key}[/]", end="  ")
            lines = (item or ["none"]) if isinstance(item, list) else [item]
            stdout.print("\n  ".join(map(readable, lines)), markup=False)


def show_parts(value: Mapping[str, Any], parts: Iterable[RenderableType], format_: Format) -> None:
    """Prints plain data as JSON, or for people its rendering as tables and sentences."""
    if format_ == "json":
        show(value, format_)
    elif format_ == "human":
        print_parts(parts)


def print_parts(parts: Iterable[RenderableType]) -> None:
    """Prints tables on stdout, and sentences unwrapped and without markup."""
    for part in parts:
        if isinstance(part, str):
            stdout.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            stdout.print(part)


def fits(part: RenderableType) -> bool:
    """Returns whether a table is no wider than the terminal."""
    return stdout.measure(part, options=stdout.options.update(width=10_000)).maximum <= stdout.width


def show_progress(format_: Format) -> AbstractContextManager[Progress]:
    """Shows the progress of a command on stderr, unless the format is `quiet`."""
    return reporting_to(Silent() if format_ == "quiet" else Bar(stderr))


def print_error(code: int, message: str, hint: str | None, *, as_json: bool) -> None:
    """Prints an error on stderr."""
    if as_json:
        print(shown(json.dumps({"error": message, "hint": hint, "exit_code": code})), file=sys.stderr)
    else:
        lines = [f"error: {message}", *([f"  hint: {hint}"] if hint else [])]
        stderr.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
