"""The folder of a variant or of a study stands for the runs below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from saepipe.data.remote.run_folders import first_run, run_folders

pytestmark = pytest.mark.quick


@pytest.fixture
def study(tmp_path: Path) -> Path:
    for name in ("l1/seed-0", "l1/seed-10", "l1/seed-2", "topk/seed-0"):
        (tmp_path / "study" / name).mkdir(parents=True)
        (tmp_path / "study" / name / "manifest.jsonl").touch()
    (tmp_path / "study" / "topk" / "seed-1").mkdir()  # begun by nobody
    return tmp_path / "study"


def test_a_folder_means_the_runs_below_it(study: Path) -> None:
    l1 = [study / "l1" / f"seed-{seed}" for seed in (0, 2, 10)]
    assert run_folders([study / "l1"]) == l1
    assert run_folders([study]) == [*l1, study / "topk" / "seed-0"]
    assert run_folders([l1[1], study / "topk"]) == [l1[1], study / "topk" / "seed-0"]
    assert run_folders(str(study / "l1")) == l1
    assert run_folders([l1[1], study / "l1"]) == [l1[1], l1[0], l1[2]], "each run once"
    assert first_run(study / "l1") == l1[0]


def test_what_holds_no_run_is_left_for_its_reader(study: Path) -> None:
    assert run_folders([study / "typo", study / "topk" / "seed-1"]) == [study / "typo", study / "topk" / "seed-1"]
