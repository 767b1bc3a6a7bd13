"""Objects as a bucket describes them: listed, read, and in a version that a later write can be conditional on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple


class Version(NamedTuple):
    """The state of an object that a write asks for: S3 and Azure compare the e_tag, Google Cloud the generation."""

    e_tag: str | None
    generation: str | None

    @classmethod
    def of(cls, answer: Mapping[str, Any]) -> Version:
        """Returns the version in obstore's answer to a request that read or wrote an object."""
        return cls(answer["e_tag"], answer["version"])

    @property
    def mode(self) -> dict[str, str]:
        """obstore's mode of a write that asks for this version."""
        named = {"e_tag": self.e_tag, "version": self.generation}
        return {key: value for key, value in named.items() if value is not None}


class Stored(NamedTuple):
    """A small object, as it was read."""

    content: bytes
    version: Version
    modified: datetime
    """by the server's clock, in whole seconds"""


@dataclass(frozen=True)
class Listed:
    """An object as a listing describes it."""

    num_bytes: int
    e_tag: str | None

    @classmethod
    def of(cls, num_bytes: int, e_tag: str | None) -> Listed:
        """Drops the quotes of the e_tag: Azure's listings have none, its answers to reads and writes have them."""
        return cls(num_bytes, e_tag and e_tag.strip('"'))
