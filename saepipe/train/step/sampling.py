"""Which steps are measured for the log: the last of a line's interval, and one drawn from it for the gradients.

A penalty that searches for pairs every few steps pulls less and less until its next search. At each line's own step,
gradients would alias with these searches: always the weakest pull, or a slow saw that is not in the training. At a
random step of each interval (jittered sampling: Cook 1986, "Stochastic Sampling in Computer Graphics") they scatter
around the mean, whatever the two periods. Multiples of the golden ratio are spread more evenly, but draw a slow saw of
their own where `log_every` is 5, 8 or 13 times the time between searches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Any

import xxhash


class Due(Flag):
    """Purposes for which a step is measured."""

    NOTHING = 0
    GRADIENTS = auto()
    LINE = auto()


@dataclass(frozen=True)
class GradientSample:
    """Gradients and statistics of one step, for the next line of the log."""

    step: int  # counted from 1
    norms: dict[str, float]  # of each weighted term, over all parameters, W_dec's parallel part removed
    total_norm: float  # of the whole loss, in the same way, before clipping
    statistics: dict[str, float]  # of penalties and transforms, by `<label>/<name>`


def due_at(step: int, num_steps: int, log_every: int, *, sampled: bool) -> Due:
    """Returns what a step (counted from 1) is measured for; `sampled`, if the next line has its gradients already."""
    first, last = interval(step, num_steps, log_every)
    line = Due.LINE if step == last else Due.NOTHING
    missing = step == last and not sampled  # an earlier version, or another `log_every`, passed the sampled step
    return line | (Due.GRADIENTS if missing or step == sampled_step(first, last) else Due.NOTHING)


def interval(step: int, num_steps: int, log_every: int) -> tuple[int, int]:
    """Returns the first and last step of the line that a step belongs to; step 1 and the run's last have lines too."""
    if step == 1:
        return 1, 1
    before = (step - 1) // log_every * log_every
    return max(1, before) + 1, min(before + log_every, num_steps)


def sampled_step(first: int, last: int) -> int:
    """Chooses one of the steps `first` to `last`, uniformly over the intervals, and alike in all runs."""
    return first + xxhash.xxh3_64_intdigest(str(last).encode()) % (last - first + 1)


def gradients_at(line: Mapping[str, Any]) -> int:
    """Returns the step at which a line's gradients and statistics were sampled; in earlier versions the line's own."""
    step: int = line.get("gradients_at", line["step"])
    return step
