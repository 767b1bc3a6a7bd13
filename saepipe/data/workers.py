"""Threads that carry out tasks, and whose death ends every wait for them instead of making it last for ever.

A thread that cannot have memory may die before it has started, or while it hands over an error; the standard library's
pool then waits without end.
"""

from __future__ import annotations

import _thread
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future
from queue import Empty, SimpleQueue
from typing import Any, ParamSpec, TypeVar

from saepipe.data.errors import OutOfSpaceError

T = TypeVar("T")
P = ParamSpec("P")

START_SECONDS = 30.0
"""A thread that has not begun by then never will."""

CHECK_SECONDS = 1.0
"""How often a wait looks whether the threads are alive."""


class Workers:
    """A fixed number of threads. A task's own error is raised where its result is asked for."""

    def __init__(self, count: int, name: str) -> None:
        """Starts the threads; `name` says in errors what they do.

        Raises:
            OutOfSpaceError: if one cannot be started.
        """
        self._name = name
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started: SimpleQueue[None] = SimpleQueue()
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._running, self._death = 0, False
        self._pending: set[Future[Any]] = set()
        for _ in range(count):
            self._start()

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queues a task."""
        future: Future[T] = Future()
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

        def task() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = function(*args, **kwargs)
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

        self._tasks.put(task)
        return future

    def result(self, future: Future[T]) -> T:
        """Waits for a task and returns its result; raises its error.

        Raises:
            OutOfSpaceError: if a thread has died.
        """
        while True:
            try:
                return future.result(CHECK_SECONDS)
            except TimeoutError:
                if future.done():
                    raise
                self._check_alive()

    def cancel(self, futures: Iterable[Future[Any]]) -> None:
        """Cancels the tasks that have not begun, and waits for the others."""
        self.wait([future for future in futures if not future.cancel()])

    def wait(self, futures: Iterable[Future[Any]]) -> None:
        """Waits for tasks, whatever becomes of them."""
        for future in futures:
            while not (future.done() or self._death):
                try:
                    future.exception(CHECK_SECONDS)
                except (TimeoutError, CancelledError):
                    continue

    def close(self, *, cancel: bool = True) -> None:
        """Ends the threads after the tasks queued so far, without those that have not begun if `cancel`."""
        if cancel:
            for future in list(self._pending):
                future.cancel()
        for _ in range(self._running):
            self._tasks.put(None)
        while self._running:
            self._ended.get()
            self._running -= 1

    def _start(self) -> None:
        try:
            _thread.start_new_thread(self._work, ())
            self._started.get(timeout=START_SECONDS)
        except (RuntimeError, MemoryError, Empty) as error:
            self.close()
            hint = "more memory or threads (ulimit -v, ulimit -u)"
            raise OutOfSpaceError(f"a thread to {self._name} could not be started: {error!r}", hint=hint) from None
        self._running += 1

    def _work(self) -> None:
        """Carries out tasks, and records if this thread dies, which needs no memory."""
        try:
            self._started.put(None)
            while (task := self._tasks.get()) is not None:
                task()
                del task  # what it holds must not wait for the next one
        except BaseException:
            self._death = True
        finally:
            self._ended.put(None)

    def _check_alive(self) -> None:
        if self._death:
            message = f"a thread to {self._name} died, most likely because it could not have memory"
            raise OutOfSpaceError(message, hint="more memory (ulimit -v), or smaller batches")


def in_parallel(function: Callable[[T], object], items: Sequence[T], threads: int, name: str) -> None:
    """Calls a function for each item, several at a time; raises the first error. `name` says in errors what for."""
    if not items:
        return
    workers = Workers(min(threads, len(items)), name)
    try:
        for call in [workers.submit(function, item) for item in items]:
            workers.result(call)
    finally:
        workers.close()
