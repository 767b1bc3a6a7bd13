"""Finished runs whose files are no longer what was sealed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.train.rundir.sealed_log import damaged_log


def damage(folder: Path) -> Iterator[str]:
    """Yields a sentence per file of a finished run, its log included, that is missing or not what was sealed."""
    try:
        _, lines = artifact.open_committed(folder, "run")
    except CorruptDataError as error:
        yield error.message
        return
    yield from artifact.damaged_files(folder, lines)
    yield from damaged_log(folder)


def check_undamaged(folder: Path) -> None:
    """Raises CorruptDataError, with every file concerned, if a finished run is damaged."""
    if problems := list(damage(folder)):
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise CorruptDataError(
            f"the finished run {folder} is damaged:\n{listed}",
            hint=f"copy it again from where it was made; or remove {folder / artifact.COMMITTED} and run the same "
            "command again, which goes on from the last intact checkpoint",
        )
