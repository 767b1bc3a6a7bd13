"""The share of a command's work that one of several jobs does, which start and end without knowing of each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

from saepipe.data.errors import ConfigError

Piece = TypeVar("Piece")


@dataclass(frozen=True)
class Share:
    """One of `count` shares of all work, such as the one of a task of a job array; by default all of it."""

    number: int = 1
    """from 1 to count"""
    count: int = 1

    @classmethod
    def of(cls, share: Self | str) -> Self:
        """Reads "2/8", the second of eight shares.

        Raises:
            ConfigError: if it is no share.
        """
        if not isinstance(share, str):
            return share
        numbers = re.fullmatch(r"([0-9]+)/([0-9]+)", share)
        parsed = cls(int(numbers[1]), int(numbers[2])) if numbers else cls(0)
        if not 1 <= parsed.number <= parsed.count:
            raise ConfigError(f"{share!r} is no share of the work", hint="shares of eight jobs are 1/8 to 8/8")
        return parsed

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def pieces(self, work: Sequence[Piece]) -> list[Piece]:
        """Returns this share's pieces. They are dealt out in turn, whatever is done already: all jobs agree on that."""
        return list(work[self.number - 1 :: self.count])
