"""Verification of a path: what was checked, what is damaged, what was cleared, and the commands that make it again."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.data.folders.sealed_result import is_sealed
from saepipe.data.remote.places import folder_of, refresh_as_is
from saepipe.evaluate.results.result_file import read
from saepipe.evaluate.verify.damage import clear, damage, unfinished
from saepipe.evaluate.verify.find import Part, parts


@dataclass(frozen=True)
class Verified:
    """Outcome of a verification."""

    checked: dict[str, int]
    """Number of intact or damaged parts by kind."""
    damaged: list[str]
    """One sentence per damaged file."""
    unfinished: list[str]
    """Folders that were begun and not sealed; the command that makes them goes on."""
    without_digest: list[str]
    """Results of earlier versions, which can only be read, not checked."""
    cleared: list[str]
    """With `repair`: what was damaged, and is no longer believed by any command."""
    next: list[str]
    """With `repair`: the commands to run."""
    lost: list[str]
    """With `repair`: what no command can make again, with advice."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def verify(path: Path, *, repair: bool = False, may_be_empty: bool = False) -> Verified:
    """Compares everything at or below `path` with its seals, byte for byte; for a cache also `<cache>.artifacts`.

    Args:
        path: an artifact, a result file, or a folder that holds some.
        repair: remove what is damaged and can be made again.
        may_be_empty: whether there may be nothing at all.

    Raises:
        ConfigError: if saepipe made nothing there, unless `may_be_empty`.
        LockedError: with `repair`, if another process is writing a damaged part.
    """
    refresh_as_is(path := folder_of(path))
    verified = Verified({}, [], [], [], [], [], [])
    checked: Counter[str] = Counter()
    for part in parts(path):
        if unfinished(part):
            verified.unfinished.append(str(part.path))
            continue
        checked[part.kind] += 1
        if problems := damage(part):
            verified.damaged.extend(problems)
            if repair:
                _repair(part, verified)
        elif part.kind == "result" and not is_sealed(read(part.path)):
            verified.without_digest.append(str(part.path))
    if not (checked or verified.unfinished or may_be_empty):
        missing = "does not exist" if not path.exists() else "holds nothing that saepipe made"
        raise ConfigError(f"{path} {missing}", hint="give a cache, a run, results, or a folder that holds some")
    verified.checked.update(checked)
    return verified


def _repair(part: Part, verified: Verified) -> None:
    try:
        command = clear(part)
    except CorruptDataError as error:
        verified.lost.append(str(error))
        return
    verified.cleared.append(f"{part.kind} {part.path}")
    if command not in verified.next:
        verified.next.append(command)
