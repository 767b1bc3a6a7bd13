"""Results that go elsewhere need no writable run and no writable cache."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import saepipe as sp
from helpers.read_only import read_only
from saepipe.data.errors import explain
from saepipe.data.terminal.progress import Silent

MADE = Path(__file__).parents[1] / "fixtures" / "made_at_c89d372"
RUN = "runs/base/seed-0"
CORE: dict[str, Any] = {"metrics": [{"name": "core"}], "features": None, "device": "cpu"}


def test_results_elsewhere_write_nothing_beside_the_run_or_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(MADE, tmp_path / "made", ignore=shutil.ignore_patterns("cache.artifacts"))
    monkeypatch.chdir(tmp_path / "made")
    with read_only(tmp_path / "made"):
        with pytest.raises(Exception, match="Read-only file system") as caught:
            sp.evaluate([RUN], CORE, out=tmp_path / "first", progress=Silent())
        settings = CORE | {"artifacts": str(tmp_path / "artifacts")}
        (path,) = sp.evaluate([RUN], settings, out=tmp_path / "second", progress=Silent())
    code, message, _ = explain(caught.value)
    assert (code, "cache.artifacts" in message) == (3, True)
    ours, theirs = (json.loads(Path(p).read_text()) for p in (path, MADE / RUN / "eval" / "core.json"))
    assert ours["saepipe"]["fingerprints"]["run"] == theirs["saepipe"]["fingerprints"]["run"]
