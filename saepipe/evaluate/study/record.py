"""What a study decided on its way, `OUT/study.json`: so that it goes on as it began, whatever was read meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.artifact import write_json
from saepipe.data.remote.places import fetch, send

RECORD = "study.json"


@dataclass(frozen=True)
class Checked:
    """Mean L0 on held-out text of an arm's first runs."""

    arm: str
    """fingerprint of the arm"""
    wanted: float
    """L0 of the baseline, which all arms must match"""
    measured: float
    trained_to: float | None
    """L0 that the arm is trained to instead, since it missed; None: it matches, or cannot come closer"""


@dataclass(frozen=True)
class Judged:
    """What the first verdict was over."""

    question: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Record:
    """Decisions of a study. From its first evaluation on, its primary metrics stay those of that moment."""

    path: Path
    primary_metrics: Mapping[str, float] | None = None
    """Primary metrics with their effects of interest at the first evaluation; None: there was none."""
    asked_later: tuple[Mapping[str, float], ...] = ()
    """Other primary metrics, or effects, that were asked for afterwards."""
    spreads: Mapping[str, float] | None = None
    """Standard deviations of the differences, as the pilot measured them."""
    spread_degrees: int = 0
    """Degrees of freedom of those."""
    checked: Mapping[str, Checked] = field(default_factory=dict)
    """Arms whose L0 was checked, by label."""
    judged: Judged | None = None

    @classmethod
    def read(cls, out: Path) -> Self:
        """Reads the record of a study at `out`; an empty one if there is none.

        Raises:
            CorruptDataError: if the file is damaged.
        """
        fetch(path := out / RECORD)
        if not path.exists():
            return cls(path)
        try:
            plain = json.loads(path.read_text())
            plain["checked"] = {label: Checked(**each) for label, each in plain["checked"].items()}
            if (judged := plain["judged"]) is not None:
                arms, seeds = tuple(judged["arms"]), tuple(judged["seeds"])
                plain["judged"] = Judged(judged["question"], arms, seeds)
            return cls(path, **plain | {"asked_later": tuple(plain["asked_later"])})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            hint = f"restore a copy of {path}, or begin the study again in another --out"
            raise CorruptDataError(f"{path} is not the record of a study: {error}", hint=hint) from None

    def _kept(self, **changes: Any) -> Self:
        changed = replace(self, **changes)
        plain = asdict(changed)
        del plain["path"]
        write_json(self.path, plain)
        send(self.path)
        return changed

    def registering(self, primary_metrics: Mapping[str, float]) -> Self:
        """Returns the record before an evaluation: the first primary metrics stay, later ones are noted."""
        if self.primary_metrics is None:
            return self._kept(primary_metrics=dict(primary_metrics))
        if self.primary_metrics == primary_metrics or primary_metrics in self.asked_later:
            return self
        return self._kept(asked_later=(*self.asked_later, dict(primary_metrics)))

    def with_spreads(self, spreads: Mapping[str, float], degrees: int) -> Self:
        return self._kept(spreads=dict(spreads), spread_degrees=degrees)

    def with_checked(self, checked: Mapping[str, Checked]) -> Self:
        return self._kept(checked={**self.checked, **checked}) if checked else self

    def judging(self, question: str, arms: Sequence[str], seeds: Sequence[int]) -> Self:
        """Returns the record at a verdict; what the first one was over stays."""
        return self if self.judged else self._kept(judged=Judged(question, tuple(arms), tuple(seeds)))

    def checked_of(self, label: str, arm: str) -> Checked | None:
        """Returns what was checked of an arm; None if that was an arm of other settings."""
        checked = self.checked.get(label)
        return checked if checked is not None and checked.arm == arm else None
