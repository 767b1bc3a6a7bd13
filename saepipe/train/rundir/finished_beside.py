"""The finished runs beside a run, as H2 and H3 compare it with them; each is read once, however many runs end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

from saepipe.data.config.yaml_file import read_yaml
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.folders.health import Health
from saepipe.train.health.twins import Twin
from saepipe.train.rundir.run_files import CONFIG, HEALTH
from saepipe.train.stored_config import stored_identity

_READ = (artifact.COMMITTED, artifact.MANIFEST, CONFIG, HEALTH)
"""Files that a twin is read from."""

State = tuple[tuple[int, int] | None, ...]
"""Size and time of the last change of each of them; None for one that is missing."""


def twin(folder: Path) -> Twin:
    """Reads from a run's folder what others are compared with; an unfinished run has no evidence."""
    config = stored_identity(read_yaml(folder / CONFIG)[0])
    cache = artifact.read_manifest(folder)[0]["cache"]
    finished = artifact.is_committed(folder)
    name = f"{folder.parent.name}/{folder.name}"
    return Twin(name, {**config, "cache": cache}, Health.read(folder).evidence if finished else {})


def finished_beside(folder: Path, say: Callable[[str], None]) -> Iterator[Twin]:
    """Yields the other finished runs below the same `--out`; says which are damaged, and leaves them out."""
    for path in sorted(folder.parent.parent.glob(f"*/seed-*/{artifact.COMMITTED}")):
        if path.parent == folder:
            continue
        other = _twin_or_damage(path.parent, _state(path.parent))
        if isinstance(other, Twin):
            yield other
        else:
            say(f"{folder} is not compared with {path.parent}, which is damaged: {other}")


def _state(folder: Path) -> State:
    return tuple(_size_and_time(folder / name) for name in _READ)


def _size_and_time(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=1024)
def _twin_or_damage(folder: Path, state: State) -> Twin | str:
    """Reads a finished run, or returns what is wrong with its files; `state` is theirs, so that changes are noticed."""
    try:
        _, lines = artifact.open_committed(folder, "run")
    except CorruptDataError as error:
        return error.message
    files = {name: digest for line in lines for name, digest in line.get("files", {}).items()}
    read = {"files": {name: files[name] for name in (CONFIG, HEALTH) if name in files}}
    return next(artifact.damaged_files(folder, [read]), None) or twin(folder)
