"""Ctrl-C, SIGTERM and SIGUSR1: the first ends the command in order, a second Ctrl-C ends the process at once.

Work that has something to keep, such as a training, takes the first signal as a request (`stop_requests`): it goes on
to a point at which it can be resumed, keeps its state there and raises `StopRequest.stopped`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

from saepipe.data.errors import AGAIN, Interrupted, OutOfTime, Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)

Handler = Callable[[int, Any], Any]


@dataclass
class StopRequest:
    """Whether the work inside `stop_requests` is asked to stop."""

    signal_number: int = 0  # 0: no signal has come
    of_command_line: bool = False  # otherwise a notebook or a program expects KeyboardInterrupt

    def __bool__(self) -> bool:
        return self.signal_number != 0

    def stopped(self, kept: str) -> BaseException:
        """Returns the exception that ends the work; `kept` says what was kept."""
        if self.signal_number != signal.SIGINT:
            return _stopped(self.signal_number, f"; {kept}")
        message = f"stopped by Ctrl-C; {kept}"
        return Interrupted(message, hint=AGAIN) if self.of_command_line else KeyboardInterrupt(message)


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Lets the first signal raise, and a second Ctrl-C end this process at once; for the command line."""
    with _handled_by(_raise):
        yield


@contextmanager
def stop_requests(then: Callable[[], None] = lambda: None) -> Iterator[StopRequest]:
    """Takes the first signal as a request to stop, for the work inside; without effect outside the main thread.

    `then` is called when it comes.
    """
    request = StopRequest(of_command_line=signal.getsignal(signal.SIGTERM) is _raise)

    def take(number: int, _: FrameType | None) -> None:
        request.signal_number = number
        _expect_second(_end if request.of_command_line else _interrupt)
        then()

    try:
        with _handled_by(take):
            yield request
    finally:
        if request and request.of_command_line:  # what follows, such as waiting for trackers, may be cut short too
            _expect_second(_end)


def end_with_parent() -> None:
    """Lets this process get a SIGTERM when the one that has started it, with a pipe as its stdin, is gone."""

    def wait() -> None:
        os.read(0, 1)  # nothing is ever written, so this returns when the pipe ends
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True, name="end with parent").start()


@contextmanager
def _handled_by(handler: Handler) -> Iterator[None]:
    """Handles the signals for a while, those that may be taken."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number, earlier in before.items():
        if _may_take(number, earlier):
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, earlier in before.items():
            if earlier is not None:
                signal.signal(number, earlier)


def _may_take(number: int, earlier: Handler | int | None) -> bool:
    """Returns whether a signal may be handled, by its earlier handler.

    Signals of a background job may be ignored, and a program that handles SIGUSR1 means something else by it.
    """
    if number == signal.SIGUSR1:
        return earlier in (signal.SIG_DFL, _raise)
    return earlier not in (signal.SIG_IGN, None)


def _raise(number: int, _: FrameType | None) -> None:
    _expect_second(_end)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise _stopped(number)


def _stopped(number: int, kept: str = "") -> Stopped:
    error = OutOfTime if number == signal.SIGUSR1 else Stopped
    return error(f"stopped by {signal.Signals(number).name}{kept}", hint=AGAIN)


def _expect_second(handler: Handler) -> None:
    """Sets what another Ctrl-C does; schedulers may send their signals several times, which changes nothing."""
    signal.signal(signal.SIGINT, handler)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _end(*_: object) -> None:
    """Ends the process without waiting for anything; the next start cleans up what it was writing."""
    os.write(2, f"\nended at once; {AGAIN}\n".encode())
    os._exit(Interrupted.exit_code)
