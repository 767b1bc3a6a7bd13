"""The hedging degree of runs that were widened, against least squares; `bench/hedging.py` has worlds that are known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from helpers.result_schemas import check
from saepipe.evaluate.compare.table import compare
from saepipe.evaluate.metrics.geometry.widening import widening
from saepipe.evaluate.run import evaluate
from saepipe.evaluate.sae.subject import Subject
from saepipe.evaluate.stats.intervals import Estimate
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run
from saepipe.train.rundir.load import load

GEOMETRY = {"device": "cpu", "features": None, "metrics": [{"name": "geometry", "num_contexts": 4}]}


def made(cache: Path, out: Path, d_sae: int, **init: Any) -> Path:
    settings = {"hook": "blocks.1.hook_resid_post", "sae": {"name": "topk", "d_sae": d_sae, "k": 4}, "init": init}
    schedule = {"steps": 40, "batch_size": 256, "optimizer": {"lr": 5e-3}, "device": "cpu", "log_every": 20}
    return train(TrainConfig.parse({"cache": str(cache), **settings, **schedule}), out)[0]


@pytest.fixture(scope="module")
def narrow(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(toy_cache, tmp_path_factory.mktemp("narrow"), 40)


def found(run: Path) -> Any:
    return widening(Subject.load(open_run(run), torch.device("cpu")))


def test_the_degree_is_the_movement_towards_the_added_latents(toy_cache: Path, narrow: Path, tmp_path: Path) -> None:
    run = open_run(made(toy_cache, tmp_path / "wide", 43, **{"from": str(narrow)}))
    before, rng = load(narrow).W_dec.detach(), np.random.default_rng(0)
    added = normalize(torch.randn(3, before.shape[1], generator=torch.Generator().manual_seed(1)), dim=1)
    after = torch.cat([normalize(before + 0.4 * added[0] - 0.2 * added[1], dim=1), added])
    change = (after[:40] - before).double().numpy()

    def share(rows: np.ndarray) -> float:
        weights = np.linalg.lstsq(rows.T, change.T, rcond=None)[0]
        return float(np.linalg.norm(rows.T @ weights, axis=0).mean())

    chance = np.mean([share(rng.normal(size=(3, before.shape[1]))) for _ in range(2000)])
    sae: Any = SimpleNamespace(W_dec=after)
    result = widening(Subject(run, sae, {}))
    assert result is not None
    assert result.sizes == {"latents_before": 40, "latents_added": 3}
    expected = (share(added.double().numpy()) - chance) / (1 - chance)
    assert result.hedging_degree == pytest.approx(expected, abs=0.01)
    assert expected > 0.2


def test_only_a_run_that_was_widened_has_one(toy_cache: Path, narrow: Path, tmp_path: Path) -> None:
    assert found(narrow) is None
    assert found(made(toy_cache, tmp_path / "as wide", 40, **{"from": str(narrow)})) is None
    d_in = load(narrow).W_dec.shape[1]
    degree = found(made(toy_cache, tmp_path / "too wide", 40 + d_in, **{"from": str(narrow)})).hedging_degree
    assert degree == Estimate(
        None, reason=f"{d_in} latents were added in {d_in} dimensions, so all movement is towards them: add fewer"
    )


def test_evaluate_and_compare_show_it_or_say_why_not(toy_cache: Path, narrow: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(narrow, tmp_path / "source"))
    wide = made(toy_cache, tmp_path / "wide", 43, **{"from": str(source)})
    result = json.loads(evaluate([wide], GEOMETRY)[0].read_text())
    check(result)
    degree = result["eval_result_metrics"]["widening"]["hedging_degree"]
    assert degree == found(wide).hedging_degree
    assert result["saepipe"]["widening"] == {"latents_before": 40, "latents_added": 3}
    (row,) = compare([wide]).variants[0].rows
    assert row.value("hedging_degree") == degree
    shutil.rmtree(source)
    (path,) = evaluate([wide], GEOMETRY, out=tmp_path / "again")
    result = json.loads(path.read_text())
    assert "widening" not in result["eval_result_metrics"]
    (warning,) = (text for text in result["saepipe"]["warnings"] if "hedging" in text)
    assert warning.startswith(f"hedging is not measured: init.from: {source} no longer holds the weights")
