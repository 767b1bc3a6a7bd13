"""Run folders that a user means: a run itself, or every run below the folder of a variant or of a study."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from saepipe.data.folders.artifact import MANIFEST
from saepipe.data.remote.places import read_from


def run_folders(paths: Path | str | Sequence[Path | str]) -> list[Path]:
    """Returns the paths, with `study/l1` or `study` replaced by the runs below it, `study/l1/seed-0` and so on.

    A run is returned once. A path with neither a manifest nor runs below it is returned as it is, for its reader to
    report. Of a bucket, the paths are those of its mirror.
    """
    given = [paths] if isinstance(paths, Path | str) else paths
    runs = [run for path in map(read_from, given) for run in (_runs_below(path) or [path])]
    return list({run.resolve(): run for run in runs}.values())


def first_run(path: Path | str) -> Path:
    """Returns the path, or the first run below it: the baseline's runs of all seeds are those of its variant."""
    return run_folders(path)[0]


def _runs_below(path: Path) -> list[Path]:
    if (path / MANIFEST).exists():
        return []
    patterns = ("seed-*", "*/seed-*")
    found = next(filter(None, ([*_runs(path, pattern)] for pattern in patterns)), [])
    return sorted(found, key=lambda run: (run.parent, _seed(run)))


def _runs(path: Path, pattern: str) -> Iterator[Path]:
    return (run for run in path.glob(pattern) if (run / MANIFEST).exists())


def _seed(run: Path) -> tuple[int, str]:
    number = run.name.removeprefix("seed-")
    return (int(number) if number.isdecimal() else -1, number)
