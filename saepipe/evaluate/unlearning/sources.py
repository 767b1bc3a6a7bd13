"""What text and questions are read from, so that work on them is done again when they change."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path
from typing import Any

from saepipe.data import artifact
from saepipe.data.errors import ConfigError
from saepipe.harvest.config import DatasetConfig
from saepipe.harvest.text import resolve_revision

_COMMIT = re.compile("[0-9a-f]{40}")


def origin(dataset: DatasetConfig) -> dict[str, Any]:
    """All that decides the rows of a dataset, in plain data: settings, and the hub's commit or the files' digests.

    Where a file lies does not count. A revision that is a commit is taken as it is, without asking the hub.

    Raises:
        ConfigError: if a file is not there, or the source is neither a file nor a hub id.
        RemoteError: if the hub does not know the dataset, or cannot be reached.
    """
    settings = dataset.to_dict()
    if dataset.source == "toy":
        return settings
    if dataset.revision and _COMMIT.fullmatch(dataset.revision):
        return settings
    if (revision := resolve_revision(dataset)) is not None:
        return settings | {"revision": revision}
    path = Path(settings.pop("source"))
    if not path.exists():
        raise ConfigError(f"there is no file {str(path)!r}", hint="give an existing file, or a hub id")
    files = sorted(file for file in chain([path], path.rglob("*")) if file.is_file())
    return settings | {"files": [artifact.digest_file(file) for file in files]}
