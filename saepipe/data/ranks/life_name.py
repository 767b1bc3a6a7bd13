"""A name on which the ranks of a command agree each time that they are started, and which no earlier start had.

The store of torchrun's agents outlives the ranks. The count of restarts is no such name: an agent starts its ranks
again when those of another machine have failed, but does not count that, so machines count differently (torch 2.13.0).
"""

from __future__ import annotations

import time
import uuid
from datetime import timedelta

from torch._C._distributed_c10d import Store

from saepipe.data.ranks.launch import Ranks

_POLL_SECONDS = 0.02


def agree(store: Store, ranks: Ranks, wait: timedelta) -> str:
    """Returns the name, once all ranks have it.

    Args:
        store: that all ranks see, and earlier ones may have seen.
        ranks: of this command.
        wait: for the other ranks.

    Raises:
        RuntimeError: if some do not come in time.
    """
    own, deadline = uuid.uuid4().hex, time.monotonic() + wait.total_seconds()
    if ranks.is_first:
        _answer_all(store, ranks, own, deadline)
        return own
    store.set(f"asks/{ranks.rank}", own)
    while not store.check([answer := f"answer/{own}"]):  # a wait of the store's own would not answer signals
        _check_time(deadline, "the first rank has not come")
    name: str = store.get(answer).decode()
    store.add(f"agreed/{name}", 1)
    return name


def _answer_all(store: Store, ranks: Ranks, name: str, deadline: float) -> None:
    """Answers each rank that asks, and those of earlier starts, whose questions are still there and not told apart."""
    answered: set[str] = set()
    while (num_agreed := store.add(f"agreed/{name}", 0)) < ranks.size - 1:
        for rank in range(1, ranks.size):
            if store.check([key := f"asks/{rank}"]) and (asked := store.get(key).decode()) not in answered:
                store.set(f"answer/{asked}", name)
                answered.add(asked)
        _check_time(deadline, f"{num_agreed} of {ranks.size - 1} other ranks have come")


def _check_time(deadline: float, problem: str) -> None:
    """Waits for a moment; raises RuntimeError if the deadline has passed."""
    if time.monotonic() > deadline:
        raise RuntimeError(problem)
    time.sleep(_POLL_SECONDS)
