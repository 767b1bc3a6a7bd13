"""Stability from run folders: a result names its siblings, and is measured again if there is another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.random_runs import random_run
from helpers.result_schemas import check
from saepipe.evaluate.compare.table import compare
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.plan import plan
from saepipe.evaluate.run import evaluate
from saepipe.train.rundir.finished_run import open_run

METRIC = {"name": "stability", "num_contexts": 8, "num_draws": 1}
CONFIG = EvaluateConfig.parse({"device": "cpu", "features": None, "metrics": [METRIC]})


@pytest.fixture
def runs(toy_cache: Path, tmp_path: Path) -> list[Path]:
    """Returns three seeds of one variant and one of another."""
    names = [("relu", 0), ("relu", 1), ("relu", 2), ("topk", 0)]
    return [random_run(tmp_path / name / f"seed-{seed}", name, toy_cache, seed=seed) for name, seed in names]


def read(path: Path) -> dict[str, Any]:
    result = json.loads(path.read_text())
    check(result)
    return result


def test_a_result_names_the_seeds_that_it_rests_on(runs: list[Path]) -> None:
    results = [read(path) for path in evaluate(runs, CONFIG)]
    prints = [open_run(run).fingerprint for run in runs]
    assert [result["saepipe"]["fingerprints"].get("siblings") for result in results] == [
        prints[1:3],
        [prints[0], prints[2]],
        prints[:2],
        None,
    ]
    assert [result["saepipe"]["num_seeds"] for result in results] == [3, 3, 3, 1]
    assert "no other seed of topk" in results[3]["saepipe"]["undefined"]["pw_mcc"]
    assert len(results[0]["eval_result_details"]) == 40


def test_another_seed_makes_results_stale(runs: list[Path]) -> None:
    two = evaluate(runs[:2], CONFIG)
    assert plan(runs[:2], CONFIG)["measure"] == []
    assert plan(runs[:3], CONFIG)["measure"] == [str(run / "eval" / "stability.json") for run in runs[:3]]
    assert plan([runs[0], runs[1], runs[3]], CONFIG)["reuse"] == list(map(str, two))


def test_one_result_is_measured_again_with_the_seeds_that_need_not(runs: list[Path]) -> None:
    paths = evaluate(runs[:3], CONFIG)
    first, second = (path.read_text() for path in paths[:2])
    paths[1].write_text(second.replace('"pw_mcc": 0.', '"pw_mcc": 0.1', 1))
    evaluate(runs[:3], CONFIG)
    assert paths[0].read_text() == first
    before, after = json.loads(second), read(paths[1])
    for key in ("eval_result_metrics", "eval_result_details"):
        assert after[key] == before[key]


def test_runs_of_unequal_numbers_of_seeds_are_not_compared(runs: list[Path], toy_cache: Path, tmp_path: Path) -> None:
    others = [random_run(tmp_path / "more" / f"seed-{seed}", "relu", toy_cache, seed=seed, d_sae=41) for seed in (0, 1)]
    evaluate([*runs[:3], *others], CONFIG)
    table = compare([*runs[:3], *others], baseline=runs[0])
    [finding] = table.verdicts[-1].blocked["stability"]
    assert finding.rule == "H16"
    assert "num_seeds" in finding.message
