"""What a command says: its data on stdout, its talk on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Literal

from rich.console import Console, RenderableType

from saepipe.data.terminal.display import readable
from saepipe.data.terminal.progress import Bar, Progress, Silent
from saepipe.data.terminal.stage import watched

Format = Literal["human", "json", "quiet"]

data = Console(width=None if sys.stdout.isatty() else 240)  # a pipe has no width of its own; a table needs one
talk = Console(stderr=True, soft_wrap=True)


def show(value: Mapping[str, Any], format_: Format) -> None:
    """Plain data on stdout: as JSON, or a line a key."""
    if format_ == "json":
        data.print_json(json.dumps(value))
    elif format_ == "human":
        for key, item in value.items():
            data.print(f"[bold]{key}[/]", end="  ")
            lines = (item or ["none"]) if isinstance(item, list) else [item]
            data.print("\n  ".join(map(readable, lines)), markup=False)


def draw(parts: Iterable[RenderableType]) -> None:
    """On stdout: tables as they are; sentences unwrapped, and without markup."""
    for part in parts:
        if isinstance(part, str):
            data.print(part, markup=False, highlight=False, soft_wrap=True)
        else:
            data.print(part)


def fits(part: RenderableType) -> bool:
    """Whether a table is no wider than the terminal."""
    return data.measure(part, options=data.options.update(width=10_000)).maximum <= data.width


def watching(format_: Format) -> AbstractContextManager[Progress]:
    """Progress for one command, on stderr."""
    return watched(Silent() if format_ == "quiet" else Bar(talk))


def complain(code: int, message: str, hint: str | None, *, as_json: bool) -> None:
    """An error, on stderr."""
    if as_json:
        print(json.dumps({"error": message, "hint": hint, "exit_code": code}), file=sys.stderr)
    else:
        talk.print(f"error: {message}", markup=False, highlight=False)
        talk.print(f"  hint: {hint}" if hint else "", end="\n" if hint else "", markup=False, highlight=False)
