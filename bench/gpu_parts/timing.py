"""Time on a device: events on its stream, contenders in turns, medians; and the memory each of them needs."""

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
MOST_CALLS = 1000


@dataclass(frozen=True)
class Budget:
    """The moment at which a part is to end."""

    end: float

    @classmethod
    def of(cls, seconds: float) -> Budget:
        return cls(time.monotonic() + seconds)

    @property
    def left(self) -> float:
        return self.end - time.monotonic()


class Stopwatch(Silent):
    """How long each task took, by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}

    def start(self, what: str, total: int, unit: str, done: int = 0) -> None:
        self._what, self._began = what, time.perf_counter()

    def finish(self) -> None:
        self.seconds[self._what] = self.seconds.get(self._what, 0.0) + time.perf_counter() - self._began


@dataclass(frozen=True)
class Contender:
    """Work that has been warmed up: what its first calls took, and how many calls make a turn."""

    work: Work
    calls: int
    first_seconds: float  # of the first call: compilation is in it
    peak_bytes: int | None  # allocated by its making and its calls, at most; None on a CPU


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one figure a turn."""

    turns: tuple[float, ...]

    @property
    def seconds(self) -> float:
        return statistics.median(self.turns)


def seconds_a_call(work: Work, calls: int, device: torch.device) -> float:
    """By events on the stream, so that time in which the device waits for Python counts too."""
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


def ready(make: Callable[[], Work], device: torch.device, turn_seconds: float, *, least_calls: int = 1) -> Contender:
    """Makes and warms up a contender, alone, so that the peak of memory is its own."""
    release()
    before = _start_of_peak(device)
    work = make()
    first = seconds_a_call(work, 1, device)
    warm = seconds_a_call(work, WARM_CALLS, device)
    calls = max(least_calls, min(MOST_CALLS, round(turn_seconds / warm)))
    return Contender(work, calls, first, None if before is None else torch.cuda.max_memory_allocated(device) - before)


def in_turns(contenders: Mapping[str, Contender], device: torch.device, rounds: int) -> dict[str, Timing]:
    """Every contender once a round, every other round in the opposite order: clocks and heat hit them alike."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds):
        for name in contenders if number % 2 == 0 else reversed(list(contenders)):
            found[name].append(seconds_a_call(contenders[name].work, contenders[name].calls, device))
    return {name: Timing(tuple(turns)) for name, turns in found.items()}


def median_seconds(work: Work, device: torch.device, rounds: int, turn_seconds: float) -> float:
    """Of one piece of work that has no rival."""
    return in_turns({"": ready(lambda: work, device, turn_seconds)}, device, rounds)[""].seconds


def release() -> None:
    """Gives the device back what nobody refers to any more."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()


def attempt(what: str, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `work` found, or why it failed: a contender that fails must not cost the others their figures."""
    try:
        return work()
    except Exception as error:  # recorded under its name, printed, and the script's exit code is then 1
        reason = str(error).strip().split("\n")[0]
        print(f"FAILED {what}:", flush=True)
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {reason}"}


def _start_of_peak(device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)
