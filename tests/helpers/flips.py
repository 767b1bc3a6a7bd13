"""Random bit flips in files, and what became of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any, Literal

from saepipe.data.errors import CorruptDataError

Outcome = Literal["detected", "harmless", "silent"]


@contextmanager
def flipped(path: Path, random: Random) -> Iterator[str]:
    """Flips a random bit of a file, and restores the file at the end; yields a name for the flip."""
    data = path.read_bytes()
    offset, bit = random.randrange(len(data)), random.randrange(8)
    damaged = bytearray(data)
    damaged[offset] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        yield f"bit {bit} of byte {offset:,} of {path}"
    finally:
        path.write_bytes(data)


def outcome(read: Callable[[], Any], expected: Any) -> Outcome:
    """Says what a flip does to a reader: an error about damaged data, what is `expected` all the same, or neither."""
    try:
        return "harmless" if read() == expected else "silent"
    except CorruptDataError:
        return "detected"


def silent_flips(path: Path, read: Callable[[], Any], num_flips: int, seed: int = 0) -> list[str]:
    """Returns the flips of a file that change what `read` returns without an error."""
    random, expected, silent = Random(seed), read(), []
    for _ in range(num_flips):
        with flipped(path, random) as flip:
            if outcome(read, expected) == "silent":
                silent.append(flip)
    return silent
