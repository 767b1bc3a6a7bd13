"""Versions of dataset sources, so that work on a dataset is done again when its content changes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

from saepipe.data import toy
from saepipe.data.config.base import fingerprint
from saepipe.data.errors import ConfigError
from saepipe.data.folders import artifact
from saepipe.harvest.config import DatasetConfig
from saepipe.harvest.text import resolve_revision

_COMMIT = re.compile("[0-9a-f]{40}")


def source_version(dataset: DatasetConfig, more: Iterable[Path] = ()) -> dict[str, Any]:
    """Returns what decides the rows besides settings: the hub's `revision`, or digests of `files` or toy `documents`.

    A revision that is already a commit is returned without asking the hub.

    Args:
        dataset: where the rows are.
        more: other local files that rows come from.

    Raises:
        ConfigError: if a file does not exist, or the source is neither a file nor a hub id.
        RemoteError: if the hub does not know the dataset or cannot be reached.
    """
    if dataset.source == "toy":
        return {"documents": toy_version()}
    if dataset.revision and _COMMIT.fullmatch(dataset.revision):
        return {"revision": dataset.revision}
    if revision := resolve_revision(dataset):
        return {"revision": revision}
    return {"files": [digest for path in (Path(dataset.source), *more) for digest in _digests(path)]}


def dataset_key(dataset: DatasetConfig) -> dict[str, Any]:
    """Returns settings and version as plain data, without the path of a local file. Raises like `source_version`."""
    settings, version = dataset.to_dict(), source_version(dataset)
    if dataset.source != "toy" and "files" in version:
        del settings["source"]
    return settings | version


@cache
def toy_version() -> str:
    """Returns a digest of what the toy generates: its source code may change without changing a text."""
    return fingerprint([asdict(document) for document in toy.documents(num_documents=1000)])


def _digests(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        raise ConfigError(f"there is no file {str(path)!r}", hint="give an existing file, or a hub id")
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return [artifact.digest_file(file) for file in files if file.is_file()]
