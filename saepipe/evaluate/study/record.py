"""What a study decided on its way, `OUT/study.json`: so that it goes on as it began, whatever was read meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.artifact import write_json
from saepipe.evaluate.compare.checks import unmatched_l0

RECORD = "study.json"


@dataclass(frozen=True)
class Checked:
    """Mean L0 on held-out text of an arm's first runs."""

    asked: float
    """what they were trained to"""
    wanted: float
    """that of the baseline, which all arms must match"""
    measured: float

    @property
    def missed(self) -> bool:
        """True if the arm does not match the baseline to 5 %, so that it is trained again."""
        return min(self.measured, self.wanted) > 0 and unmatched_l0(self.measured, self.wanted) is not None

    @property
    def trained_to(self) -> float:
        """L0 that a missed arm is trained to instead: as far on the other side of the one wanted."""
        return self.asked * self.wanted / self.measured


@dataclass(frozen=True)
class Record:
    """Decisions of a study. Once a result was read, its primary metrics stay those of that moment."""

    path: Path
    primary_metrics: Mapping[str, float] | None = None
    """Primary metrics with their effects of interest when the first result was read; None: none was read."""
    asked_later: tuple[Mapping[str, float], ...] = ()
    """Other primary metrics that were asked for afterwards."""
    spreads: Mapping[str, float] | None = None
    """Standard deviations of the differences, as the pilot measured them."""
    checked: Mapping[str, Checked] = field(default_factory=dict)
    """Arms whose L0 was checked, by label."""
    judged_seeds: tuple[int, ...] = ()
    """Seeds behind the first verdict."""

    @classmethod
    def read(cls, out: Path) -> Self:
        """Reads the record of a study at `out`; an empty one if there is none.

        Raises:
            CorruptDataError: if the file is damaged.
        """
        path = out / RECORD
        if not path.exists():
            return cls(path)
        try:
            plain = json.loads(path.read_text())
            plain["checked"] = {label: Checked(**each) for label, each in plain["checked"].items()}
            return cls(path, **plain | {key: tuple(plain[key]) for key in ("asked_later", "judged_seeds")})
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            hint = f"remove {path}; runs and results stay, and the study decides anew"
            raise CorruptDataError(f"{path} is not the record of a study: {error}", hint=hint) from None

    def _kept(self, **changes: Any) -> Self:
        changed = replace(self, **changes)
        plain = asdict(changed)
        del plain["path"]
        write_json(self.path, plain)
        return changed

    def registering(self, primary_metrics: Mapping[str, float]) -> Self:
        """Returns the record once a result is read: the first primary metrics stay, later ones are noted."""
        if self.primary_metrics is None:
            return self._kept(primary_metrics=dict(primary_metrics))
        if self.primary_metrics == primary_metrics or primary_metrics in self.asked_later:
            return self
        return self._kept(asked_later=(*self.asked_later, dict(primary_metrics)))

    def with_spreads(self, spreads: Mapping[str, float]) -> Self:
        return self._kept(spreads=dict(spreads))

    def with_checked(self, checked: Mapping[str, Checked]) -> Self:
        return self._kept(checked={**self.checked, **checked}) if checked else self

    def judged(self, seeds: Sequence[int]) -> Self:
        """Returns the record after a verdict over these seeds; the first verdict's seeds stay."""
        return self if self.judged_seeds else self._kept(judged_seeds=tuple(seeds))

    @property
    def trained_to(self) -> dict[str, float]:
        """L0 by label of the arms that missed theirs and are trained again, to another."""
        return {label: of.trained_to for label, of in self.checked.items() if of.missed}

    @property
    def exploratory(self) -> bool:
        """True if other primary metrics were asked for once results had been read."""
        return bool(self.asked_later)
