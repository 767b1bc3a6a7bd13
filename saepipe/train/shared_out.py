"""The runs of a training, shared out over the ranks of torchrun: who trains which, and who reads batches with whom.

Ranks need no process group for that, only the store in which torchrun lets them write: each trains its own runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from typing import Any, Self

from torch._C._distributed_c10d import HashStore, PrefixStore, Store

from saepipe.data.batches.shared_pools import Sharing
from saepipe.data.ranks.group import open_store
from saepipe.data.ranks.launch import Ranks
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

    def own(self, unfinished: Sequence[Planned]) -> list[Planned]:
        """Returns the runs of this rank; all ranks deal out those that the first of them finds unfinished."""
        if self.ranks.is_first:
            self._store.set("unfinished", json.dumps([str(run.folder) for run in unfinished]))
        folders = self._wait_for("unfinished")
        mine = {folder for number, folder in enumerate(folders) if self.ranks.owns(number)}
        return [run for run in unfinished if str(run.folder) in mine]

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
        """Waits until every rank has trained its runs."""
        self._store.add("trained", 1)
        while self._store.add("trained", 0) < self.ranks.size:
            time.sleep(_POLL_SECONDS)

    def _wait_for(self, key: str) -> Any:
        """Waits until a rank has written JSON under a key, as long as its runs take; if it dies, torchrun ends all."""
        while not self._store.check([key]):
            time.sleep(_POLL_SECONDS)
        return json.loads(self._store.get(key))
