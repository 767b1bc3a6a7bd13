"""The manifest of a cache: the lines that it may have, and the numbers of rows that they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from saepipe.data.cache.layout import SPLITS, Split
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.artifact import MANIFEST, Line

_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "shard": ("pool", "shard", "num_rows"),
    "pool": ("pool", "num_rows"),
    "text": ("pool", "batches"),
    "contexts": ("num_contexts",),
    "metadata": (),
}
"""Whole numbers of each kind of line."""


def check_lines(path: Path, lines: Iterable[Line]) -> None:
    """Raises CorruptDataError unless all lines are of a cache, with their numbers and the digests of their shards."""
    for number, line in enumerate(lines, 1):
        kind, files = line.get("kind"), line.get("files")
        if not isinstance(kind, str) or kind not in _NUMBERS or not isinstance(files, dict):
            raise _wrong(path, number, f"its kind is {kind!r}")
        if kind != "metadata" and line.get("split") not in SPLITS:
            raise _wrong(path, number, f"its split is {line.get('split')!r}")
        for key in _NUMBERS[kind]:
            if type(value := line.get(key)) is not int or value < 0:
                raise _wrong(path, number, f"its {key} is {value!r}")
        if kind in ("shard", "contexts") and not all(isinstance(entry.get("chunks"), str) for entry in files.values()):
            raise _wrong(path, number, "a shard has no digest of its chunks")


def total(lines: Iterable[Line], kind: str, split: Split, key: str) -> int:
    """Returns the sum of a number over all lines of a kind and split."""
    return sum(int(line[key]) for line in lines if line["kind"] == kind and line.get("split") == split)


def _wrong(path: Path, number: int, problem: Any) -> CorruptDataError:
    return CorruptDataError(f"{path / MANIFEST}: line {number} is not a line of a cache: {problem}")
