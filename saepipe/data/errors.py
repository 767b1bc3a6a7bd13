"""What a user can fix, as exceptions: each says what is wrong, the value seen, and what would do.

`explain` turns every exception into an exit code and words; a failed assert or any other exception is our own bug.
"""

from __future__ import annotations

import errno
from typing import ClassVar


class SaepipeError(Exception):
    """Something a user can fix. `hint` says what would do."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message if self.hint is None else f"{self.message}\n  hint: {self.hint}"


class ConfigError(SaepipeError, ValueError):
    """Wrong usage or config: everything that the config alone shows.

    A ValueError too: raised while a config is validated, it is reported beside the config's other mistakes.
    """

    exit_code = 2


class MachineError(SaepipeError):
    """This machine or its installation cannot do what was asked (no such device, a package missing)."""

    exit_code = 3


class CorruptDataError(SaepipeError):
    """Stored or computed data is not what it should be: a damaged shard, a NaN activation."""

    exit_code = 4


class OutOfSpaceError(SaepipeError):
    """Disk or memory would not hold it."""

    exit_code = 5


class RemoteError(SaepipeError):
    """A hub or bucket did not give what was asked for."""

    exit_code = 6


class LockedError(SaepipeError):
    """Another process is writing this artifact."""

    exit_code = 7


class HealthError(SaepipeError):
    """The data show that the experiment could not have shown anything (`--strict`)."""

    exit_code = 8


class Stopped(SaepipeError):  # noqa: N818 - a state that can be resumed, not an error
    """Stopped on request (SIGTERM); what is on disk can be resumed."""

    exit_code = 75


def explain(error: BaseException) -> tuple[int, str, str | None]:
    """Exit code, what is wrong, and what would do. Code 1 is a bug of ours."""
    again = "run the same command again to go on"
    if isinstance(error, SaepipeError):
        return error.exit_code, error.message, error.hint
    if isinstance(error, KeyboardInterrupt):
        return 130, "stopped", again
    if hasattr(error, "format_message"):  # how typer tells of wrong usage
        return ConfigError.exit_code, error.format_message(), "saepipe COMMAND --help"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return OutOfSpaceError.exit_code, f"out of memory: {error}", "a smaller batch_size"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpaceError.exit_code, str(error), f"free some disk, then {again}"
    message = f"a bug in saepipe: {type(error).__name__}: {error}"
    return SaepipeError.exit_code, message, "please report it with the lines above"
