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

from saepipe.data.config.base import fingerprint
from saepipe.data.errors import CorruptDataError
from saepipe.data.folders import artifact

_TENSORS, _INFO = "tensors.safetensors", "info.json"


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
    """A folder of finished work, `<root>/<kind>/<fingerprint>/`; each piece is checksummed and appears complete."""

    def __init__(self, root: Path, model_key: Mapping[str, Any]) -> None:
        """Args:
        root: the folder, created when the first piece of work is stored.
        model_key: plain data that is part of every key: model, tokenizer, hook, dtype.
        """
        self.root = root
        self.model_key = model_key
        self._open: dict[Path, Content] = {}

    def get(self, kind: str, key: Mapping[str, Any], make: Callable[[], Content]) -> Content:
        """Returns the content of a piece of work, which is done and stored first if it is not there yet.

        Args:
            kind: names the work's folder.
            key: everything that determines the content, besides the model.
            make: does the work. Its result is read back from the file, so that the first call sees the same content
                as later ones.

        Raises:
            CorruptDataError: if the stored content was changed or damaged.
            LockedError: if another process is doing the same work now.
        """
        folder = self.folder(Work(kind, key))
        if folder not in self._open:
            if not artifact.is_committed(folder):
                self._store(folder, self._key(key), make)
            self._open[folder] = _read(folder, self._key(key))
        return self._open[folder]

    def has(self, kind: str, key: Mapping[str, Any]) -> bool:
        """Returns whether the work is done and stored."""
        return artifact.is_committed(self.folder(Work(kind, key)))

    def folder(self, work: Work) -> Path:
        """Returns the folder of the work's content, which need not exist yet."""
        return self.root / work.kind / fingerprint(self._key(work.key))

    def _key(self, key: Mapping[str, Any]) -> dict[str, Any]:
        return {**self.model_key, **key}

    def _store(self, folder: Path, key: Mapping[str, Any], make: Callable[[], Content]) -> None:
        with artifact.writer_lock(folder):
            if artifact.is_committed(folder):
                return
            content = make()
            _write_tensors(folder / _TENSORS, content.tensors)
            artifact.write_json(folder / _INFO, content.info)
            files = artifact.digest_files(folder, [_TENSORS, _INFO])
            header = {"kind": "model work", "key": key, "provenance": dict(artifact.provenance()), "files": files}
            artifact.rewrite_manifest(folder, [header])
            artifact.commit(folder)


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes like `artifact.write_file`, without a second copy of the tensors in memory."""
    with artifact.atomic_file(path, sum(tensor.nbytes for tensor in tensors.values())) as partial:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, partial)


def _read(folder: Path, key: Mapping[str, Any]) -> Content:
    _, lines = artifact.open_committed(folder, "stored model work")
    for problem in artifact.damaged_files(folder, lines):
        raise CorruptDataError(problem, hint=f"delete {folder} and evaluate again")
    if lines[0]["key"] != json.loads(json.dumps(key)):
        raise CorruptDataError(f"{folder} holds other work than its name says", hint="delete it and evaluate again")
    return Content(load_file(folder / _TENSORS), json.loads((folder / _INFO).read_text()))
