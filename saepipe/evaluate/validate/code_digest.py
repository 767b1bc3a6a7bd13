"""Digests of the code that an outcome depends on, so that outcomes kept by an earlier call are not of other code."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import saepipe
from saepipe.train.penalties.base import Penalty


@cache
def code_digest(*measuring: Path) -> str:
    """Returns a digest of the code that samples and trains, of no penalty, and of the files that measure."""
    root = Path(saepipe.__file__).parent
    paths = {*(root / "data" / "synthetic").glob("*.py"), *(root / "train").rglob("*.py"), *measuring}
    paths -= {path for path in (root / "train" / "penalties").glob("*.py") if path.stem != "base"}
    return hashlib.sha256("".join(_digest(path) for path in sorted(paths)).encode()).hexdigest()


def penalty_digests(names: Iterable[str]) -> dict[str, str]:
    """Returns the digest of each penalty's file, by name."""
    files = {name: sys.modules[Penalty.member(name).__module__].__file__ for name in sorted({*names})}
    return {name: _digest(Path(str(file))) for name, file in files.items()}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
