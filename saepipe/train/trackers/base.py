"""Interface of a tracker, which gets each line of `metrics.jsonl` once it is written, and each health finding."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from saepipe.data.errors import MachineError
from saepipe.data.folders.artifact import LOG
from saepipe.data.folders.health import Finding

PROJECT = "saepipe"
"""Project of the runs in trackers that have projects, unless the environment names another."""

PACKAGES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""Module that each tracker imports; the extra of the tracker's name installs it."""


@dataclass(frozen=True)
class TrackedRun:
    """Description of a run, given to a tracker at its start."""

    folder: Path
    name: str  # <variant>/seed-<n>
    group: str  # name of the study, which is the folder of its runs
    config: Mapping[str, Any]  # resolved, with the header of the run's manifest under `run`
    step: int  # step from which the run resumes; 0 for a new run

    @property
    def log(self) -> Path:
        """Folder whose contents are outside every digest."""
        return self.folder / LOG


class Tracker(Protocol):
    """A tracker, created by its module's `start` and used by one thread only. It may be slow, hang or raise."""

    last_step: int
    """Step of the last line that the tracker has already; a resumed run sends only later ones."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Takes a line of `metrics.jsonl`, flattened."""

    def log_finding(self, step: int, finding: Finding) -> None:
        """Takes a finding of a health rule."""

    def finish(self, ok: bool) -> None:
        """Ends tracking: the run is committed (`ok`), or it failed or was stopped."""


def check_installed(names: Sequence[str]) -> None:
    """Raises MachineError if a tracker's package is missing."""
    for name in names:
        try:
            file = importlib.import_module(PACKAGES[name]).__file__
        except ImportError:
            file = None
        if file is None:  # a folder `wandb` in the working directory imports as an empty package of that name
            raise MachineError(
                f"the tracker {name} needs a package that is not installed", hint=f"pip install 'saepipe[{name}]'"
            )


def flat_numbers(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yields a line's numbers with names such as `terms/l1/gradient_share`, leaving out its step."""
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from flat_numbers(value, f"{prefix}{key}/")
        elif prefix or key != "step":
            yield f"{prefix}{key}", float(value)


def read_id(run: TrackedRun, tracker: str) -> str | None:
    """Returns the tracker's own id of this run, stored when the run began; None for a new run."""
    path = run.log / f"{tracker}.id"
    return path.read_text().strip() if path.exists() else None


def write_id(run: TrackedRun, tracker: str, tracker_id: str) -> None:
    (run.log / f"{tracker}.id").write_text(f"{tracker_id}\n")
