"""What is on disk for a piece of work that is asked for: all of it, damage, or nothing that answers the request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """State of the output of one piece of work."""

    done: bool
    """Whether intact output answers the request."""
    damage: str | None = None
    """Why output that is there cannot be believed; it is then made again."""
    unchecked: bool = False
    """Whether it was made by an earlier version, without a digest to check it by."""

    @property
    def remark(self) -> str:
        """What to add to a sentence that says that it is reused."""
        return " (made by an earlier version, without a digest, so not checked for damage)" if self.unchecked else ""
