"""Times work on a device with events on its stream: contenders take turns, figures are medians; also peak memory."""

from __future__ import annotations

import gc
import statistics
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from saepipe.data.terminal.progress import Silent

Work = Callable[[], object]

WARM_CALLS = 3
MAX_CALLS = 1000


@dataclass(frozen=True)
class Budget:
    """The moment at which a part should end."""

    end: float

    @classmethod
    def of(cls, seconds: float) -> Budget:
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


class Stopwatch(Silent):
    """Records when each task began and how long it took, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.began: dict[str, float] = {}
        self.seconds: dict[str, float] = {}

    def start(self, task: str, total: int, unit: str, done: int = 0) -> None:
        self._task, self.began[task] = task, time.perf_counter()

    def finish(self) -> None:
        self.seconds[self._task] = self.seconds.get(self._task, 0.0) + time.perf_counter() - self.began[self._task]


@dataclass(frozen=True)
class Contender:
    """Work that has been warmed up, with its calls per turn."""

    work: Work
    calls: int
    first_seconds: float  # seconds of the first call, which includes compilation
    peak_bytes: int | None  # peak memory allocated while it is built and called; None on a CPU


@dataclass(frozen=True)
class Timing:
    """Seconds per call, one figure per turn."""

    turns: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return statistics.median(self.turns)


def seconds_per_call(work: Work, calls: int, device: torch.device) -> float:
    """Times calls by events on the stream, so that time in which the device waits for Python counts too."""
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(calls):
            work()
        return (time.perf_counter() - began) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(calls):
        work()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls


def warm_up(make: Callable[[], Work], device: torch.device, turn_seconds: float, *, min_calls: int = 1) -> Contender:
    """Builds and warms up a contender while no other is running, so that the memory peak is its own."""
    release()
    before = _start_of_peak(device)
    work = make()
    first = seconds_per_call(work, 1, device)
    warm = seconds_per_call(work, WARM_CALLS, device)
    calls = max(min_calls, min(MAX_CALLS, round(turn_seconds / warm)))
    return Contender(work, calls, first, None if before is None else torch.cuda.max_memory_allocated(device) - before)


def in_turns(contenders: Mapping[str, Contender], device: torch.device, rounds: int) -> dict[str, Timing]:
    """Times contenders once per round, every other round in the opposite order, so that clocks and heat affect all."""
    turns: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in contenders if number % 2 == 0 else reversed(list(contenders)):
            turns[name].append(seconds_per_call(contenders[name].work, contenders[name].calls, device))
    return {name: Timing(tuple(seconds)) for name, seconds in turns.items()}


def median_seconds(work: Work, device: torch.device, rounds: int, turn_seconds: float) -> float:
    """Returns the median seconds per call of a single piece of work."""
    return in_turns({"": warm_up(lambda: work, device, turn_seconds)}, device, rounds)[""].seconds


def release() -> None:
    """Returns unreferenced memory to the device."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def attempt(name: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Returns the result of `work`, or why it failed, so that one failing contender does not cost the others theirs."""
    try:
        return work()
    except Exception as error:  # recorded under its name and printed; makes the exit code 1
        reason = str(error).strip().split("\n")[0]
        print(f"FAILED {name}:", flush=True)
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {reason}"}


def _start_of_peak(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
