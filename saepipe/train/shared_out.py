"""The runs of a training, shared out over the ranks of torchrun: who trains which, and who reads batches with whom.

Ranks need no process group for that, only the store in which torchrun lets them write: each trains its own runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from itertools import count
from typing import Any, Self

from torch._C._distributed_c10d import HashStore, PrefixStore, Store

from saepipe.data.batches.shared_pools import Sharing
from saepipe.data.folders.artifact import is_committed
from saepipe.data.ranks.group import open_store
from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.leaving import leaving_together
from saepipe.train.plan import Planned

_CONNECT = timedelta(minutes=10)
_POLL_SECONDS = 0.2
_TRAININGS = count()
"""Numbers of the trainings of this process, which come one after the other, as in the other ranks."""


class SharedOut:
    """The ranks of one training; a single process is the only rank."""

    def __init__(self, ranks: Ranks, store: Store) -> None:
        self.ranks, self._store = ranks, store
        self._num_streams = 0

    @classmethod
    def of(cls, ranks: Ranks) -> Self:
        if ranks.size == 1:
            return cls(ranks, HashStore())
        return cls(ranks, PrefixStore(f"training/{next(_TRAININGS)}", open_store(ranks, _CONNECT)))

    def leaving_together(self) -> AbstractContextManager[None]:
        """Lets a rank that is stopped wait until the others have kept checkpoints of their runs too."""
        return leaving_together(self.ranks, self._store)

    def unfinished(self, planned: Sequence[Planned]) -> list[Planned]:
        """Returns the runs that the first rank finds unfinished, so that all ranks see the same ones."""
        if self.ranks.is_first:
            numbers = [number for number, run in enumerate(planned) if not is_committed(run.folder)]
            self._store.set("unfinished", json.dumps(numbers))
        return [planned[number] for number in self._wait_for("unfinished")]

    def own(self, unfinished: Sequence[Planned]) -> list[Planned]:
        """Returns the runs of this rank: they are dealt out in turn."""
        return [run for number, run in enumerate(unfinished) if self.ranks.owns(number)]

    def together(self, steps: range) -> tuple[range, Sharing | None]:
        """Agrees with the ranks of this machine on the batches to read of the next stream.

        Args:
            steps: that this rank's runs need; empty if it has none.

        Returns:
            The steps that any of them needs, and who reads them together; None if this rank is alone.
        """
        first_here = self.ranks.rank - self.ranks.local_rank
        name = f"stream/{self._num_streams}/{first_here}"
        self._num_streams += 1
        self._store.set(f"{name}/wants/{self.ranks.local_rank}", json.dumps([steps.start, steps.stop]))
        keys = (f"{name}/wants/{rank}" for rank in range(self.ranks.local_size))
        wanted = {rank: range(*self._wait_for(key)) for rank, key in enumerate(keys)}
        members = [rank for rank, their_steps in wanted.items() if their_steps]
        if not steps or members == [self.ranks.local_rank]:
            return steps, None
        start, stop = min(wanted[rank].start for rank in members), max(wanted[rank].stop for rank in members)
        sharing = Sharing(self._store, name, members.index(self.ranks.local_rank), len(members))
        return range(start, stop), sharing

    def wait_for_all(self) -> None:
        """Waits until every rank has trained its runs; the first, which may serve the store, leaves last."""
        self._count("trained", self.ranks.size)
        if self.ranks.is_first:
            self._count("left", self.ranks.size)
        else:
            self._store.add("left", 1)

    def _count(self, name: str, wanted: int) -> None:
        """Counts this rank, and waits until as many are counted as wanted."""
        self._store.add(name, 1)
        while self._store.add(name, 0) < wanted:
            time.sleep(_POLL_SECONDS)

    def _wait_for(self, key: str) -> Any:
        """Waits until a rank has written JSON under a key, as long as its runs take; if it dies, torchrun ends all."""
        while not self._store.check([key]):
            time.sleep(_POLL_SECONDS)
        return json.loads(self._store.get(key))
