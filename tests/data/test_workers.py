"""Whatever becomes of a thread, a wait for its work ends."""

from __future__ import annotations

import _thread
import threading

import pytest

from saepipe.data import workers as module
from saepipe.data.errors import OutOfSpaceError
from saepipe.data.workers import Workers

pytestmark = pytest.mark.quick


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHECK_SECONDS", 0.01)
    monkeypatch.setattr(module, "START_SECONDS", 0.1)


def test_results_and_errors_reach_the_caller() -> None:
    workers = Workers(2, "work")
    futures = [workers.submit(divmod, number, 2) for number in range(9)]
    assert [workers.result(future) for future in futures] == [divmod(number, 2) for number in range(9)]
    failed = workers.submit(int, "x")
    with pytest.raises(ValueError, match="invalid literal"):
        workers.result(failed)
    slow = workers.submit(_raise_timeout)
    with pytest.raises(TimeoutError, match="its own"):
        workers.result(slow)
    workers.close()


def _raise_timeout() -> None:
    raise TimeoutError("its own")


def test_closing_drops_what_has_not_begun() -> None:
    workers, go = Workers(1, "work"), threading.Event()
    first, second = workers.submit(go.wait), workers.submit(int)
    while not first.running():
        pass
    second.cancel()
    go.set()
    workers.cancel([first, second])
    workers.close()
    assert (first.done(), second.cancelled()) == (True, True)


@pytest.mark.parametrize("wait", ["result", "cancel"])
def test_a_thread_that_dies_ends_the_waits(wait: str) -> None:
    """It dies where a lack of memory would kill it: while it hands over an error."""
    workers = Workers(1, "decode")
    workers._tasks.put(_die)
    future = workers.submit(int)
    if wait == "result":
        with pytest.raises(OutOfSpaceError, match="a thread to decode died"):
            workers.result(future)
    else:
        workers.cancel([future])
    workers.close()


def _die() -> None:
    raise MemoryError


@pytest.mark.parametrize("how", ["refused", "dead"])
def test_a_thread_that_does_not_start_is_an_error(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: object) -> int:
        if how == "refused":
            raise RuntimeError("can't start new thread")
        return 0  # the thread has died before its first instruction

    monkeypatch.setattr(_thread, "start_new_thread", start)
    with pytest.raises(OutOfSpaceError, match="a thread to decode could not be started"):
        Workers(1, "decode")
