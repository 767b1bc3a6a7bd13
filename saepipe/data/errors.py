"""Exceptions for problems that a user can fix: each states the problem, the value, and a possible fix.

`explain` turns any exception into an exit code and a message; a failed assert or any other exception is a bug.
"""

from __future__ import annotations

import errno
import os
import re
from typing import ClassVar

_FULL = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space, or ask for a larger quota",
    errno.EFBIG: "raise the limit on the size of a file (`ulimit -f`)",
}
"""What would do about a file that does not fit, by the system's error number."""

_REFUSED = {
    errno.EROFS: "choose a folder that can be written to",
    errno.EACCES: "check the permissions, or choose another folder",
    errno.EPERM: "check the permissions, or choose another folder",
    errno.EIO: "the disk or its connection has failed; see the system's log",
    errno.ESTALE: "the network file system has lost the file; mount it again",
    errno.EMFILE: "raise the limit on open files (`ulimit -n`)",
    errno.ENFILE: "close other programs: the machine has too many open files",
    errno.ENOLCK: "choose a folder on a file system that has locks",
    errno.EOPNOTSUPP: "choose a folder on another file system",
}
"""What would do about a machine that refuses a request, by the system's error number."""

_WRONG_PATH = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP)

AGAIN = "run the same command again to resume"


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


class Stopped(BaseException):
    """Stopped on request (SIGTERM, SIGUSR1); the data on disk can be resumed.

    Like KeyboardInterrupt it is no Exception: it is raised anywhere, and no library should take it for an error.
    """

    exit_code: ClassVar[int] = 75

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class OutOfTime(Stopped):
    """Stopped by SIGUSR1, by which a batch scheduler says that the time of a job is nearly up (`sbatch --signal`)."""


class Interrupted(Stopped):
    """Stopped by Ctrl-C in a terminal."""

    exit_code = 130


def explain(error: BaseException) -> tuple[int, str, str | None]:
    """Returns the exit code, the message and the hint for any exception. Exit code 1 is a bug in saepipe."""
    if isinstance(error, SaepipeError | Stopped):
        return error.exit_code, error.message, error.hint
    if isinstance(error, KeyboardInterrupt):
        return Interrupted.exit_code, str(error) or "stopped by Ctrl-C", AGAIN
    if hasattr(error, "format_message"):  # typer's usage errors
        return ConfigError.exit_code, error.format_message(), "saepipe COMMAND --help"
    if is_out_of_memory(error):
        reason = next(iter(str(error).splitlines()), "") or "nothing more could be allocated"
        return OutOfSpaceError.exit_code, f"out of memory: {reason}", "a smaller batch_size, or more memory (ulimit -v)"
    if known := machine_error(error):
        return known.exit_code, known.message, f"{known.hint}, then {AGAIN}"
    message = f"a bug in saepipe: {type(error).__name__}: {error}"
    return SaepipeError.exit_code, message, "please report it with the lines above"


def error_number(error: BaseException) -> int | None:
    """The system's error number of a failed read or write; safetensors gives it only in its text."""
    if isinstance(error, OSError):
        return error.errno
    if type(error).__name__ == "SafetensorError" and (number := re.search(r"(?:code: |os error )(\d+)", str(error))):
        return int(number[1])
    return None


def machine_error(error: BaseException, action: str = "") -> SaepipeError | None:
    """Explains what the machine or its file system refused; None for any other error.

    Args:
        error: the error of a file operation.
        action: what failed; by default the path that the error names.
    """
    number = error_number(error)
    if number is None:
        return None
    path = error.filename if isinstance(error, OSError) and error.filename else ""
    message = f"{action or path or 'a file'}: {os.strerror(number)}"
    if number in _FULL:
        return OutOfSpaceError(message, hint=_FULL[number])
    if number in _REFUSED:
        return MachineError(message, hint=_REFUSED[number])
    if number in _WRONG_PATH and path:
        return ConfigError(message, hint="choose another path")
    return None


_OUT_OF_MEMORY = (
    "can't allocate memory",  # torch on a CPU
    "not enough memory",
    "can't start new thread",
    "failed to map segment",  # a library that is loaded
    "Cannot allocate memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Returns whether memory could not be had: of the machine, of a limit such as `ulimit -v`, or of a device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return isinstance(error, RuntimeError | ImportError) and any(words in str(error) for words in _OUT_OF_MEMORY)
