"""State of the output on disk of a requested piece of work: complete, damaged, or none that answers the request."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """State of the output of one piece of work."""

    done: bool
    """True if intact output answers the request."""
    damage: str | None = None
    """Reason why existing output cannot be believed; it is then made again."""
    unchecked: bool = False
    """True if it was made by an earlier version, without a digest to check it by."""

    @property
    def remark(self) -> str:
        """Words to add to a sentence that says that the output is reused."""
        return " (made by an earlier version, without a digest, so not checked for damage)" if self.unchecked else ""
