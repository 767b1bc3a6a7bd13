"""Interruption of harvests, and the contents of the folders that they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saepipe.data.cache.ancestors import FOLDER
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.rows import WindowBatch


class Crash(BaseException):
    """Simulates a power failure; nothing may catch it."""


def changed(config: HarvestConfig, **settings: Any) -> HarvestConfig:
    return HarvestConfig.parse({**config.to_dict(), **settings})


def contents(folder: Path) -> dict[str, bytes]:
    """Returns the bytes of all files except logs and earlier lengths, by relative path."""
    files = {path.relative_to(folder): path for path in folder.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in files.items() if name.parts[0] not in ("log", FOLDER)}


def crash_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Makes the harvest crash after `batches` forward passes."""
    run, remaining = RowSource._run, [batches]

    def crashing_run(self: RowSource, batch: WindowBatch) -> Any:
        if remaining[0] == 0:
            raise Crash
        remaining[0] -= 1
        return run(self, batch)

    monkeypatch.setattr(RowSource, "_run", crashing_run)
