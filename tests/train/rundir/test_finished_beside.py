"""Runs that end beside many others: each finished run is read once, and again only if its files have changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.made_results import write_run
from saepipe.data.folders.health import Health
from saepipe.train.rundir import finished_beside as module
from saepipe.train.rundir.finished_beside import finished_beside


def test_each_finished_run_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[Path] = []
    twin = module.twin

    def counted(folder: Path) -> module.Twin:
        reads.append(folder)
        return twin(folder)

    monkeypatch.setattr(module, "twin", counted)
    runs = []
    for number in range(8):
        runs.append(write_run(tmp_path / f"v{number}" / "seed-0", health=Health(evidence={"number": number})))
        found = list(finished_beside(runs[-1], pytest.fail))
        assert [other.evidence["number"] for other in found] == [*range(number)]
    assert len(reads) == len(runs) - 1
    write_run(runs[0], health=Health(evidence={"number": 100}))
    assert next(finished_beside(runs[1], pytest.fail)).evidence["number"] == 100


def test_a_run_that_is_damaged_meanwhile_is_left_out(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"v{number}" / "seed-0") for number in range(2)]
    assert len(list(finished_beside(runs[1], pytest.fail))) == 1
    (runs[0] / "health.json").write_text("{}")
    said: list[str] = []
    assert list(finished_beside(runs[1], said.append)) == []
    assert "which is damaged" in said[0]
