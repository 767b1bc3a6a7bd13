"""Artifacts whose files were changed and sealed again, as someone would who hands out a folder made to deceive."""

from __future__ import annotations

import hashlib
import json
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from saepipe.data.folders import artifact


def reseal(folder: Path, change: Callable[[list[artifact.Line]], object]) -> None:
    """Changes the manifest of an artifact, and seals it."""
    path = folder / artifact.MANIFEST
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    change(lines)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / artifact.COMMITTED).write_text(hashlib.sha256(path.read_bytes()).hexdigest())


def add_file(folder: Path, name: str) -> None:
    """Adds a name to the manifest."""
    reseal(folder, lambda lines: lines[-1]["files"].update({name: {"bytes": 3, "xxh3": "0" * 16}}))


def replace_file(folder: Path, name: str, data: bytes, **entry: Any) -> None:
    """Replaces a file of an artifact, with its line in the manifest."""
    (folder / name).write_bytes(data)

    def change(lines: list[artifact.Line]) -> None:
        for line in lines:
            if name in line.get("files", {}):
                line["files"][name] |= artifact.digest_bytes(data) | entry

    reseal(folder, change)


def change_json(folder: Path, name: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes a JSON file of an artifact."""
    value = json.loads((folder / name).read_text())
    change(value)
    replace_file(folder, name, json.dumps(value).encode())


@contextmanager
def limited_memory(more: int = 1 << 28) -> Iterator[None]:
    """Lets this process take only `more` bytes of address space beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
