"""Exceptions for problems that a user can fix: each states the problem, the value, and a possible fix.

`explain` turns any exception into an exit code and a message; a failed assert or any other exception is a bug.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class SaepipeError(Exception):
    """A problem that the user can fix; `hint` suggests how."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class ConfigError(SaepipeError, ValueError):
    """Wrong usage, or a mistake that the config alone shows.

    It is also a ValueError, so that one raised during validation is reported together with the config's other mistakes.
    """

    exit_code = 2


class MachineError(SaepipeError):
    """This machine or installation lacks something that the command needs (a device, a package)."""

    exit_code = 3


class CorruptDataError(SaepipeError):
    """Stored or computed data is wrong: a damaged shard, a NaN activation."""

    exit_code = 4


class OutOfSpaceError(SaepipeError):
    """The data does not fit on disk or in memory."""

    exit_code = 5


class RemoteError(SaepipeError):
    """A request to a hub or bucket failed."""

    exit_code = 6


class LockedError(SaepipeError):
    """Another process is writing this artifact."""

    exit_code = 7


class HealthError(SaepipeError):
    """The data show that the experiment cannot support any conclusion (`--strict`)."""

    exit_code = 8


class Stopped(SaepipeError):  # noqa: N818 - a state that can be resumed, not an error
    """Stopped on request (SIGTERM); the data on disk can be resumed."""

    exit_code = 75


def explain(error: BaseException) -> tuple[int, str, str | None]:
    """Returns the exit code, the message and the hint for any exception. Exit code 1 is a bug in saepipe."""
    again = "run the same command again to resume"
    if isinstance(error, SaepipeError):
        return error.exit_code, error.message, error.hint
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped", again
    if hasattr(error, "format_message"):  # typer's usage errors
        return ConfigError.exit_code, error.format_message(), "saepipe COMMAND --help"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfSpaceError.exit_code, f"out of memory: {error}", "a smaller batch_size"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpaceError.exit_code, str(error), f"free some disk space, then {again}"
    message = f"a bug in saepipe: {type(error).__name__}: {error}"
    return SaepipeError.exit_code, message, "please report it with the lines above"
