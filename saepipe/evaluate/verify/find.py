"""What below a path was made by saepipe and can be checked on its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from saepipe.data.config.component import import_members
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.evaluate.browse import notes
from saepipe.evaluate.features import store
from saepipe.evaluate.metrics.base import Metric
from saepipe.evaluate.model import kept_work
from saepipe.train.rundir.checkpoint import checkpoints
from saepipe.train.rundir.run_files import CHECKPOINTS

Kind = Literal["cache", "run", "checkpoint", "feature store", "kept work", "result", "notes", "validation outcomes"]

_SIGNS: dict[Kind, tuple[str, ...]] = {
    "cache": ("zarr.json", "acts", "heldout"),
    "feature store": (store.ARRAYS, store.TOKENS),
    "kept work": (kept_work.TENSORS,),
    "run": ("config.yaml", "sae"),
}
"""Files or folders of which each kind of sealed folder has at least one, even if others are lost."""
_KINDS: dict[str, Kind] = {"run": "run", "features": "feature store", kept_work.KIND: "kept work"}
"""Kinds by the manifest's first line, for folders that have lost all of their files."""
_SWEEPS = "sweeps"


@dataclass(frozen=True)
class Part:
    """Something that is checked as a whole."""

    kind: Kind
    path: Path


def parts(path: Path) -> Iterator[Part]:
    """Yields everything at or below a path: a file, an artifact with what lies in or beside it, or a folder of many.

    Symbolic links to folders are not followed.
    """
    if path.is_file():
        yield from _file_part(path)
        return
    beside = kept_work.beside(path)
    roots = [path, beside] if kind_of(path) == "cache" and beside.is_dir() else [path]
    for root in roots:
        for name, folders, files in os.walk(root):
            folder = Path(name)
            kind = kind_of(folder)
            if kind:
                yield Part(kind, folder)
            if kind == "run":
                yield from (Part("checkpoint", path) for path in checkpoints(folder / CHECKPOINTS))
            if kind is None or kind == "run":
                listed = [folder / file for file in sorted(files) if file.endswith(".json")]
                for file in listed if kind is None else [folder / notes.FILE]:
                    yield from _file_part(file) if file.is_file() else ()
            folders[:] = sorted(_below(kind, folders))


def kind_of(folder: Path) -> Kind | None:
    """Returns the kind of a sealed folder, finished or not; None if it is not one."""
    if not any((folder / name).is_file() for name in (artifact.MANIFEST, artifact.COMMITTED)):
        return None
    for kind, signs in _SIGNS.items():
        if any((folder / sign).exists() for sign in signs):
            return kind
    try:
        first = next(iter(artifact.read_manifest(folder)), {})
    except CorruptDataError:
        return None
    return _KINDS.get(str(first.get("kind")))


def _below(kind: Kind | None, folders: list[str]) -> list[str]:
    """Returns the folders in which other parts may lie."""
    if kind is None:
        return [name for name in folders if name != artifact.LOG]
    return [name for name in folders if kind == "run" and name in ("eval", store.FOLDER)]


def _file_part(path: Path) -> Iterator[Part]:
    import_members(Metric.package)
    if path.name == notes.FILE:
        yield Part("notes", path)
    elif path.parent.name == "eval" or path.stem in Metric.members:
        yield Part("result", path)
    elif path.parent.name == _SWEEPS:
        yield Part("validation outcomes", path)
