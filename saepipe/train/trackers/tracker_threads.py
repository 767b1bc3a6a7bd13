"""Each tracker of each run works in a thread of its own: training neither waits for it nor fails with it.

What waits to be sent are lines that the log keeps in memory anyway, so the queue needs no bound.
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
from saepipe.train.trackers.base import TrackedRun, Tracker, flat

PATIENCE = 30.0
"""Seconds for which all trackers together may keep a training from ending."""


class Feed:
    """One tracker of one run. `trouble` is what ended it too early."""

    def __init__(self, name: str, run: TrackedRun) -> None:
        self.name = name
        self.trouble: str | None = None
        self._todo: SimpleQueue[Callable[[Tracker], None] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, args=(run,), name=f"{name} of {run.name}", daemon=True)
        self._thread.start()

    def put(self, act: Callable[[Tracker], None] | None) -> None:
        """What it is to do next; None: that was all."""
        self._todo.put(act)

    def wait(self, seconds: float) -> None:
        """Until it has done all, or for so long."""
        self._thread.join(max(0.0, seconds))
        if self._thread.is_alive():
            self.trouble = f"it has not finished {PATIENCE:g} s after training"

    def _work(self, run: TrackedRun) -> None:
        try:
            tracker: Tracker = importlib.import_module(f"saepipe.train.trackers.{self.name}").start(run)
            while act := self._todo.get():
                act(tracker)
        except BaseException as error:  # whatever a library leaves by, it must not leave in silence
            self.trouble = f"{type(error).__name__}: {error}"


class Trackers:
    """Those of one run; what is wrong with one is said once, and then that one is off."""

    def __init__(self, feeds: Sequence[Feed], run_name: str, progress: Progress) -> None:
        self._feeds = list(feeds)
        self._run_name = run_name
        self._progress = progress
        self._ended = False

    def log(self, line: Mapping[str, Any]) -> None:
        """A line that stands in `metrics.jsonl`; a tracker that has it already is not told again."""

        def act(tracker: Tracker) -> None:
            if line["step"] > tracker.last_step:
                tracker.log(line["step"], dict(flat(line)))

        self._put(act)

    def tell(self, step: int, finding: Finding) -> None:
        self._put(lambda tracker: tracker.tell(step, finding))

    def end(self, ok: bool) -> None:
        """No more will come; what follows the first call changes nothing."""
        if not self._ended:
            self._ended = True
            self._put(lambda tracker: tracker.finish(ok))
            self._put(None)

    def wait(self, until: float) -> None:
        """Until all have done what they were given, or it is `until` (monotonic seconds)."""
        for feed in self._feeds:
            feed.wait(until - time.monotonic())
        self._look()

    def _put(self, act: Callable[[Tracker], None] | None) -> None:
        self._look()
        for feed in self._feeds:
            feed.put(act)

    def _look(self) -> None:
        for feed in [feed for feed in self._feeds if feed.trouble]:
            self._feeds.remove(feed)
            self._progress.say(
                f"{self._run_name}: tracker {feed.name} is off: {feed.trouble}. metrics.jsonl has every line"
            )


class Tracking:
    """The trackers of runs that are trained together; leaving it ends them, with patience for the slow."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._followed: list[Trackers] = []

    def follow(self, names: Sequence[str], run: TrackedRun, lines: Sequence[Mapping[str, Any]]) -> Trackers:
        """Starts a run's trackers, and gives them the `lines` that are written already."""
        trackers = Trackers([Feed(name, run) for name in names], run.name, self._progress)
        self._followed.append(trackers)
        for line in lines:
            trackers.log(line)
        return trackers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for trackers in self._followed:
            trackers.end(ok=False)
        until = time.monotonic() + PATIENCE
        for trackers in self._followed:
            trackers.wait(until)
