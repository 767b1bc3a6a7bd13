"""How each kind of part is compared with its seal, and how what is damaged is cleared for the command that remakes it.

Only files of known names are removed, never those that a manifest names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from saepipe.data.cache.ancestors import damaged_ancestors
from saepipe.data.cache.repair import repair as repair_cache
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.sealed_result import again
from saepipe.data.remote.damaged_files import damaged_files
from saepipe.data.remote.places import writer_lock
from saepipe.evaluate.browse.notes import read_notes
from saepipe.evaluate.features import store
from saepipe.evaluate.model import kept_work
from saepipe.evaluate.results.result_file import read
from saepipe.evaluate.validate.trained_stacks import read_outcomes
from saepipe.evaluate.verify.find import Kind, Part
from saepipe.train.rundir.checkpoint import DamagedCheckpoint, read_index, remove_checkpoint
from saepipe.train.rundir.run_damage import damage as damaged_run


def damage(part: Part) -> list[str]:
    """Returns a sentence per damaged file of a part."""
    if part.kind in _READERS:
        try:
            _READERS[part.kind](part.path)
        except CorruptDataError as error:
            return [error.message]
        return []
    return list(_sealed_damage(part))


def unfinished(part: Part) -> bool:
    """Returns whether a part was begun and never sealed, so that nothing believes it."""
    return part.kind not in _READERS and not artifact.is_committed(part.path)


def clear(part: Part) -> str:
    """Removes what is damaged, so that a command makes it again; returns that command.

    Raises:
        CorruptDataError: if no command can make it again; nothing is removed then.
        LockedError: if another process is writing it.
    """
    return _CLEARERS[part.kind](part.path)


def _sealed_damage(part: Part) -> Iterator[str]:
    try:
        if part.kind == "run":
            yield from damaged_run(part.path)
            return
        _, lines = artifact.open_committed(part.path, part.kind)
        yield from damaged_files(part.path, lines)
        if part.kind == "cache":
            yield from damaged_ancestors(part.path)
    except CorruptDataError as error:
        yield error.message


def _read_checkpoint(path: Path) -> None:
    """Raises CorruptDataError if a run cannot go on from this checkpoint of its own."""
    try:
        read_index(path, artifact.read_manifest(path.parent.parent)[0]["run_id"])
    except DamagedCheckpoint as problem:
        raise CorruptDataError(f"{path} cannot be used: {problem}") from None
    except (IndexError, KeyError):
        raise CorruptDataError(f"{path} cannot be used: its run has lost its manifest") from None


def _clear_cache(path: Path) -> str:
    report = repair_cache(path)
    if report["next"] is None:
        hint = "to give up the evaluation of runs trained from it, remove its folder in ancestors/"
        raise CorruptDataError("an earlier length cannot be made again: " + "; ".join(report["lost"]), hint=hint)
    return str(report["next"])


def _clear_run(path: Path) -> str:
    try:
        header = artifact.read_manifest(path)[0]
    except (CorruptDataError, IndexError):
        header = {}
    if "imported" in header:
        raise CorruptDataError(f"{path} was imported", hint="remove this folder and import it again")
    with writer_lock(path, as_is=True):
        (path / artifact.COMMITTED).unlink(missing_ok=True)
    return f"the saepipe train command that made {path}, which goes on from its last intact checkpoint"


def _clear_checkpoint(path: Path) -> str:
    with writer_lock(path.parent.parent, as_is=True):
        remove_checkpoint(path)
    return f"nothing for {path}: a run goes on from its last intact checkpoint"


def _clear_store(path: Path) -> str:
    with writer_lock(path, as_is=True):
        for name in (artifact.COMMITTED, artifact.MANIFEST, store.ARRAYS, store.TOKENS, store.INFO):
            (path / name).unlink(missing_ok=True)
    return f"saepipe evaluate {path.parent if artifact.is_committed(path.parent) else 'RUN --out ' + str(path.parent)}"


def _clear_work(path: Path) -> str:
    with writer_lock(path, as_is=True):
        kept_work.remove(path)
    return "saepipe evaluate RUN, with any run that needs it"


def _clear_result(path: Path) -> str:
    with writer_lock(path.parent, as_is=True), artifact.writer_lock(path.parent, part=path.stem):
        path.unlink()
    return again(path)


def _clear_outcomes(path: Path) -> str:
    path.unlink()
    return f"saepipe validate --out {path.parent.parent}, with the penalties and settings of the first time"


def _clear_notes(path: Path) -> str:
    try:
        read_notes(path)
    except CorruptDataError as error:
        raise CorruptDataError(f"{path}: people's notes cannot be made again", hint=error.hint) from None
    raise AssertionError("only damaged notes are cleared")


_READERS: dict[Kind, Callable[[Path], object]] = {
    "checkpoint": _read_checkpoint,
    "result": read,
    "notes": read_notes,
    "validation outcomes": read_outcomes,
}
_CLEARERS: dict[Kind, Callable[[Path], str]] = {
    "cache": _clear_cache,
    "run": _clear_run,
    "checkpoint": _clear_checkpoint,
    "feature store": _clear_store,
    "kept work": _clear_work,
    "result": _clear_result,
    "notes": _clear_notes,
    "validation outcomes": _clear_outcomes,
}
