"""Harvests that tests interrupt, and what lies on disk afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.rows import RowSource, WindowBatch


class Crash(BaseException):
    """A stand-in for the power going off: nothing may catch it."""


def changed(config: HarvestConfig, **settings: Any) -> HarvestConfig:
    return HarvestConfig.parse({**config.to_dict(), **settings})


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the logs of times."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in files if p.relative_to(folder).parts[0] != "log"}


def crash_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Lets `batches` forward passes through, then crashes."""
    run, left = RowSource._run, [batches]

    def counted(self: RowSource, batch: WindowBatch) -> dict[str, torch.Tensor]:
        if left[0] == 0:
            raise Crash
        left[0] -= 1
        return run(self, batch)

    monkeypatch.setattr(RowSource, "_run", counted)
