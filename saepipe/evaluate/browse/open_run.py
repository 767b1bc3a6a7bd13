"""A run in the browser."""

from __future__ import annotations

from dataclasses import dataclass

from saepipe.evaluate.browse.notes import Notes
from saepipe.evaluate.features.roles import Role
from saepipe.evaluate.features.store import FeatureStore


@dataclass(frozen=True)
class OpenRun:
    """A run in the browser."""

    label: str
    store: FeatureStore
    roles: dict[int, list[Role]]
    notes: Notes

    @property
    def d_sae(self) -> int:
        return self.store.info.d_sae
