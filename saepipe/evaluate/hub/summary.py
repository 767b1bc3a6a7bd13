"""Summary of a push, for people: what goes where, before the list of files and the card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from saepipe.data.terminal.display import readable_bytes


def summary(sent: Mapping[str, Any]) -> Iterator[str]:
    """Yields lines on what was sent, or with a dry run would be; `sent` is the result of `push`."""
    runs = ", ".join(sent["runs"])
    size = f"{len(sent['files'])} files, {readable_bytes(sent['bytes'])}"
    yield f"{'would push' if sent['dry_run'] else 'pushed'} {runs} ({size})"
    yield f"to         {sent['url']}, revision {sent['revision']}"
    if "commit" in sent:
        yield f"commit     {sent['commit']}{'' if sent['changed'] else ' (nothing was new)'}"
    if sent.get("deleted"):
        yield f"deleted    {', '.join(sent['deleted'])}"
    yield f"findings   {_counted(sent['findings'], 'health finding', 'at the top of the card') or 'none'}"
    if sent["left_out"]:
        yield f"left out   {', '.join(sent['left_out'])}: results of earlier runs in these folders"
    if sent["local_paths"] and sent["dry_run"]:
        places = _counted(sent["local_paths"], "place", "with a path of this machine: it needs --local-paths")
        yield f"refused    {places}:"
        yield from (f"  {line}" for line in sent["local_paths"])
    yield ""
    yield "files"
    yield from (f"  {name}  {readable_bytes(size)}" for name, size in sent["files"].items())


def _counted(lines: list[str], noun: str, rest: str) -> str:
    return f"{len(lines)} {noun}{'s' if len(lines) > 1 else ''} {rest}" if lines else ""
