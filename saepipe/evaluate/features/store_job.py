"""Feature stores to build: one per run, each identified by the request that it answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.standing import Standing
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.model.testbed import Testbed
from saepipe.train.rundir.finished_run import Run

VERSION = 3
"""Incremented whenever the same inputs give another store; older stores are then rebuilt."""


@dataclass(frozen=True)
class StoreRequest:
    """Everything that a store's content depends on. Equal requests have equal stores, in whatever folder."""

    run: str  # fingerprint
    cache: str  # fingerprint
    hook: str
    settings: dict[str, Any]  # `Features`
    dtype: str | None  # of the model that gives the logits
    version: int = VERSION


@dataclass(frozen=True)
class StoreJob:
    """The store of one run."""

    run: Run
    testbed: Testbed
    settings: Features
    folder: Path
    results: Path
    """folder of the run's results, in which the store is locked while it is made"""

    @property
    def request(self) -> StoreRequest:
        dtype = self.testbed.dtype if self.settings.num_logits else None
        cache = self.testbed.cache.fingerprint
        return StoreRequest(self.run.fingerprint, cache, self.testbed.hook, self.settings.to_dict(), dtype)

    @property
    def done(self) -> bool:
        return self.standing().done

    def standing(self) -> Standing:
        """Returns whether an intact store answers the request; reads all of its files."""
        if not artifact.is_committed(self.folder):
            return Standing(done=False)
        try:
            _, (header, *_) = artifact.open_committed(self.folder, "feature store")
            same = header["request"] == asdict(self.request)
        except (CorruptDataError, KeyError, TypeError, ValueError) as error:
            message = error.message if isinstance(error, CorruptDataError) else f"{self.folder} is no feature store"
            return Standing(done=False, damage=message)
        damage = next(artifact.damaged_files(self.folder, [header]), None) if same else None
        return Standing(same and damage is None, damage)
