"""What a tracker is: it gets each line of `metrics.jsonl` after it has been written there, and what health finds."""

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
"""Where the runs go in trackers that have projects, unless the environment names another."""

PACKAGES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb", "trackio": "trackio"}
"""What each tracker imports; it is installed by the extra of the tracker's name."""


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a run at its start."""

    folder: Path
    name: str  # <variant>/seed-<n>
    group: str  # the study: the name of the folder that its runs lie in
    config: Mapping[str, Any]  # with nothing left open, and what the run's manifest says of itself
    step: int  # from which it goes on; 0 where it begins

    @property
    def log(self) -> Path:
        """What lies here is outside every digest."""
        return self.folder / LOG


class Tracker(Protocol):
    """Made by its module's `start`, and used by one thread alone. It may be slow, hang or raise."""

    last_step: int
    """The last line that it has already: a run that goes on is told what comes after it."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """A line of `metrics.jsonl`, flat."""

    def tell(self, step: int, finding: Finding) -> None:
        """Something that the rules of health have to say."""

    def finish(self, ok: bool) -> None:
        """The run is committed (`ok`), or has failed or was stopped."""


def check_installed(names: Sequence[str]) -> None:
    """Raises MachineError if a tracker's package is missing."""
    for name in names:
        try:
            found = importlib.import_module(PACKAGES[name]).__file__
        except ImportError:
            found = None
        if found is None:  # a folder `wandb` beside us is an empty package of that name
            raise MachineError(
                f"the tracker {name} needs a package that is not installed", hint=f"pip install 'saepipe[{name}]'"
            )


def flat(line: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a line: `terms/l1/gradient_share`. Its step is no number of it."""
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}/")
        elif prefix or key != "step":
            yield f"{prefix}{key}", float(value)


def recalled(run: TrackedRun, tracker: str) -> str | None:
    """The tracker's own id of this run, of when it was begun."""
    path = run.log / f"{tracker}.id"
    return path.read_text().strip() if path.exists() else None


def remember(run: TrackedRun, tracker: str, its_id: str) -> None:
    (run.log / f"{tracker}.id").write_text(f"{its_id}\n")
