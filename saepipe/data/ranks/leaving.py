"""Ranks that are stopped leave together.

srun takes the first rank that leaves for the end of all: it sends the others SIGTERM, and ends them `KillWait` (30
seconds by default) later, in the middle of a checkpoint that takes longer. So does the requeue of their job. torchrun's
agent waits for all ranks that it stops, so nothing is done there.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from torch._C._distributed_c10d import Store

from saepipe.data.errors import Stopped
from saepipe.data.ranks.kept import KEPT
from saepipe.data.ranks.launch import Ranks

SECONDS = 600.0
"""How long a rank that is stopped waits for the others; a job that is out of time ends before."""

_POLL_SECONDS = 0.2


@contextmanager
def leaving_together(
    ranks: Ranks, store: Store, seconds: float = SECONDS, environment: Mapping[str, str] = os.environ
) -> Iterator[None]:
    """Lets a rank that is stopped in the work inside wait until all others are, and have kept what they have.

    Args:
        ranks: of this command.
        store: of all ranks, which ends with the first unless torchrun's agent serves it.
        seconds: how long to wait for the others.
        environment: says whether torchrun's agent has started the ranks.
    """
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        if ranks.size > 1 and not has_agent(environment):
            with suppress(RuntimeError):  # the store has ended with the first rank
                _wait(ranks, store, seconds)
        raise


def has_agent(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether the ranks use the store of torchrun's agent, which has started them."""
    return environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _wait(ranks: Ranks, store: Store, seconds: float) -> None:
    """Counts this rank and what it has kept; the first waits for all, and the others until it has left.

    So the first, which requeues the job of all, has done so before srun learns that a rank has left.
    """
    store.add("kept", KEPT.number)
    store.add("leaving", 1)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if store.add("leaving", 0) == ranks.size and ranks.is_first:
            break
        time.sleep(_POLL_SECONDS)
    KEPT.number = store.add("kept", 0)
