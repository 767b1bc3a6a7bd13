"""What a command keeps for good is counted, once, wherever it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from saepipe.data.folders.artifact import append_manifest, commit, write_json
from saepipe.data.folders.sealed_result import write_result
from saepipe.data.ranks.kept import KEPT


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KEPT, "number", 0)


def test_lines_of_pools_seals_and_results_are_counted(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    assert KEPT.number == 0
    append_manifest(tmp_path, {"kind": "pool", "files": {}})
    assert KEPT.number == 1
    commit(tmp_path)
    assert KEPT.number == 2
    write_result(tmp_path / "core.json", {"saepipe": {}})
    assert KEPT.number == 3
