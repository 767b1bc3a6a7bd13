"""What a training tells the cache that it reads, and what it hears if rows that are on their way will not come."""

from __future__ import annotations


class WaitEnded(Exception):  # noqa: N818 - the wait ends, for a reason that may be no error
    """Rows will not come, for a reason; None: whoever reads them was asked to stop."""

    def __init__(self, reason: BaseException | None = None) -> None:
        super().__init__(str(reason or "asked to stop"))
        self.reason = reason


class ComingRows:
    """The rows of a finished cache, which are all there and stay."""

    def pass_rows(self, num_rows: int) -> None:
        """Says that the first `num_rows` rows are not needed any more."""

    def stop_waiting(self) -> None:
        """Lets every wait for rows end."""
