"""Work that depends on the model alone, done once and kept: tokens, activations, probes, prompts, index sets, losses.

Every SAE and every later call reads the same bytes, so no result depends on what was evaluated before it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from saepipe.data.cache.ancestors import whole_cache
from saepipe.data.config.base import fingerprint
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact
from saepipe.data.remote.places import folder_of, refresh, writer_lock
from saepipe.data.terminal.progress import Progress, Silent

KIND = "model work"
AGAIN = "saepipe evaluate RUN does it again"
TENSORS, INFO = "tensors.safetensors", "info.json"


@dataclass(frozen=True)
class Content:
    """Output of a piece of work."""

    tensors: Mapping[str, Tensor]
    """On the CPU; memory-mapped when read from the file."""
    info: Mapping[str, Any] = field(default_factory=dict)
    """Plain data."""


@dataclass(frozen=True)
class Work:
    """A piece of work, as a plan identifies it."""

    kind: str
    key: Mapping[str, Any]
    """Plain data: everything that determines the content, besides the model."""


class KeptWork:
    """A folder of finished work, `<root>/<kind>/<fingerprint>/`; each piece is checksummed and appears complete.

    What several processes need is made by one of them, and the others wait for it.
    """

    def __init__(self, root: Path, model_key: Mapping[str, Any], progress: Progress | None = None) -> None:
        """Args:
        root: the folder, created when the first piece of work is stored.
        model_key: plain data that is part of every key: model, tokenizer, hook, dtype.
        progress: receives a sentence when another process is waited for, or damaged work is done again.
        """
        self.root = folder_of(root)
        self.model_key = model_key
        self._say = (progress or Silent()).say
        self._open: dict[Path, Content] = {}

    def get(self, kind: str, key: Mapping[str, Any], make: Callable[[], Content]) -> Content:
        """Returns the content of a piece of work, which is done and stored first if it is not there yet, or damaged.

        Args:
            kind: names the work's folder.
            key: everything that determines the content, besides the model.
            make: does the work. Its result is read back from the file, so that the first call sees the same content
                as later ones.
        """
        folder, full_key = self.folder(Work(kind, key)), self._key(key)
        if folder not in self._open:
            self._open[folder] = self._read(folder, full_key) or self._store(folder, full_key, make)
        return self._open[folder]

    def has(self, kind: str, key: Mapping[str, Any]) -> bool:
        """Returns whether the work is done and stored."""
        refresh(folder := self.folder(Work(kind, key)))
        return artifact.is_committed(folder)

    def folder(self, work: Work) -> Path:
        """Returns the folder of the work's content, which need not exist yet."""
        return self.root / work.kind / fingerprint(self._key(work.key))

    def _key(self, key: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.model_key, **key}

    def _read(self, folder: Path, key: Mapping[str, Any]) -> Content | None:
        """Returns the stored content; None if there is none, or if it is damaged, which is said."""
        refresh(folder)
        if not artifact.is_committed(folder):
            return None
        try:
            return read(folder, key)
        except CorruptDataError as error:
            self._say(f"{error.message}: this work is done again")
            return None

    def _store(self, folder: Path, key: Mapping[str, Any], make: Callable[[], Content]) -> Content:
        with writer_lock(folder, self._say):
            if content := self._read(folder, key):  # from the process that was waited for
                return content
            remove(folder)  # what is damaged, or was left by a process that died
            content = make()
            _write_tensors(folder / TENSORS, content.tensors)
            artifact.write_json(folder / INFO, content.info)
            files = artifact.digest_files(folder, [TENSORS, INFO])
            header = {"kind": KIND, "key": key, "provenance": dict(artifact.provenance()), "files": files}
            artifact.rewrite_manifest(folder, [header])
            artifact.commit(folder)
            return read(folder, key)


def beside(cache: Path) -> Path:
    """Returns the folder of the kept work of a cache, at any length, unless an evaluation's settings name another."""
    return Path(f"{whole_cache(cache)}.artifacts")


def remove(folder: Path) -> None:
    """Removes the files of a piece of work, its seal first, so that it is done again."""
    for name in (artifact.COMMITTED, artifact.MANIFEST, TENSORS, INFO):
        for path in (folder / name, folder / f"{name}.partial"):
            path.unlink(missing_ok=True)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes like `artifact.write_file`, without a second copy of the tensors in memory."""
    with artifact.atomic_file(path, sum(tensor.nbytes for tensor in tensors.values())) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)


def read(folder: Path, key: Mapping[str, Any] | None = None) -> Content:
    """Reads a piece of work; with `key`, only if it is the work of that key.

    Raises:
        CorruptDataError: if the stored content was changed or damaged, or is other work.
    """
    _, lines = artifact.open_committed(folder, "stored model work")
    for problem in artifact.damaged_files(folder, lines):
        raise CorruptDataError(problem, hint=AGAIN)
    if key is not None and lines[0]["key"] != json.loads(json.dumps(key)):
        raise CorruptDataError(f"{folder} holds other work than its name says", hint=AGAIN)
    return Content(load_file(folder / TENSORS), json.loads((folder / INFO).read_bytes()))
