"""Threads of the trackers, one per tracker and run, so that training neither waits for a tracker nor fails with it.

The queued lines are in memory anyway, because the log keeps them, so the queue needs no bound.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Any, Self

from saepipe.data.folders.health import Finding
from saepipe.data.terminal.progress import Progress
from saepipe.train.trackers.base import TrackedRun, Tracker, flat_numbers

FINISH_TIMEOUT = 30.0
"""Seconds for which all trackers together may delay the end of training."""


class TrackerThread:
    """Thread of one tracker of one run. `failure` says why it ended early."""

    def __init__(self, name: str, run: TrackedRun) -> None:
        self.name = name
        self.failure: str | None = None
        self._queue: SimpleQueue[Callable[[Tracker], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, args=(run,), name=f"{name} of {run.name}", daemon=True)
        self._thread.start()

    def put(self, action: Callable[[Tracker], None] | None) -> None:
        """Queues an action; None ends the thread."""
        self._queue.put(action)

    def wait(self, seconds: float) -> None:
        """Waits until the queue is done, but no longer than `seconds`."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            self.failure = f"it had not finished {FINISH_TIMEOUT:g} s after training"

    def _work(self, run: TrackedRun) -> None:
        try:
            tracker: Tracker = importlib.import_module(f"saepipe.train.trackers.{self.name}").start(run)
            while action := self._queue.get():
                action(tracker)
        except BaseException as error:  # a library's SystemExit must be reported too
            self.failure = f"{type(error).__name__}: {error}"


class Trackers:
    """Trackers of one run. A tracker that fails is reported once and gets nothing more."""

    def __init__(self, threads: Sequence[TrackerThread], run_name: str, progress: Progress) -> None:
        self._threads = list(threads)
        self._run_name = run_name
        self._progress = progress
        self._ended = False

    def log(self, line: Mapping[str, Any]) -> None:
        """Sends a line of `metrics.jsonl` to the trackers that do not have it yet."""

        def action(tracker: Tracker) -> None:
            if line["step"] > tracker.last_step:
                tracker.log(line["step"], dict(flat_numbers(line)))

        self._put(action)

    def log_finding(self, step: int, finding: Finding) -> None:
        self._put(lambda tracker: tracker.log_finding(step, finding))

    def end(self, ok: bool) -> None:
        """Ends the trackers; only the first call has an effect."""
        if not self._ended:
            self._ended = True
            self._put(lambda tracker: tracker.finish(ok))
            self._put(None)

    def wait(self, until: float) -> None:
        """Waits until all queues are done, but no longer than `until` (monotonic seconds)."""
        for thread in self._threads:
            thread.wait(until - time.monotonic())
        self._drop_failed()

    def _put(self, action: Callable[[Tracker], None] | None) -> None:
        self._drop_failed()
        for thread in self._threads:
            thread.put(action)

    def _drop_failed(self) -> None:
        for thread in [thread for thread in self._threads if thread.failure]:
            self._threads.remove(thread)
            self._progress.say(
                f"{self._run_name}: tracker {thread.name} is off: {thread.failure}. metrics.jsonl has every line"
            )


class Tracking:
    """Context of the trackers of runs that train together; leaving it ends them and waits `FINISH_TIMEOUT` at most."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._followed: list[Trackers] = []

    def follow(self, names: Sequence[str], run: TrackedRun, lines: Sequence[Mapping[str, Any]]) -> Trackers:
        """Starts a run's trackers and sends them the `lines` already written."""
        trackers = Trackers([TrackerThread(name, run) for name in names], run.name, self._progress)
        self._followed.append(trackers)
        for line in lines:
            trackers.log(line)
        return trackers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for trackers in self._followed:
            trackers.end(ok=False)
        until = time.monotonic() + FINISH_TIMEOUT
        for trackers in self._followed:
            trackers.wait(until)
