"""Memory of an evaluation as its dry run tells it, against what the system counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.random_runs import random_run
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.dry_run import dry_run, page

MEASURE = """
import json, sys
import torch
from pathlib import Path
from saepipe.data.batches.rank_memory import measured_memory
from saepipe.evaluate.run import evaluate
torch.set_num_threads(1)
run, out, *configs = sys.argv[1:]
for number, config in enumerate(map(json.loads, configs)):
    with measured_memory(torch.device("cpu")) as measured:
        evaluate([run], config, out=Path(out) / str(number))
    print(measured.host)
"""
GEOMETRY = {"device": "cpu", "metrics": [{"name": "geometry", "num_contexts": 8}], "features": None}
STORE = {"split": "heldout", "num_tokens": 1000, "num_logits": 0}


@pytest.fixture(scope="module")
def run(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_run(tmp_path_factory.mktemp("runs") / "topk" / "seed-0", "topk", toy_cache, d_sae=1024, k=8)


def test_it_is_what_the_system_counts(run: Path, toy_cache: Path, tmp_path: Path) -> None:
    """Within 30 percent, of geometry, which needs no model, and of geometry with a store.

    What the system counts differs by 10 percent from run to run: the allocator keeps more or less of what was freed.
    """
    wide = random_run(tmp_path / "wide" / "seed-0", "topk", toy_cache, d_sae=4096, k=8)
    configs = [GEOMETRY, GEOMETRY | {"features": STORE}]
    planned, measured = [], []
    for number, each in enumerate((run, wide)):
        command = [sys.executable, "-c", MEASURE, str(each), str(tmp_path / str(number)), *map(json.dumps, configs)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
        measured.append([*map(int, process.stdout.split())])
        plans = [dry_run([each], EvaluateConfig.parse(config), out=tmp_path / "none") for config in configs]
        assert [(plan["memory"]["device"], plan["not_counted"]) for plan in plans] == [(0, [])] * 2
        planned.append([plan["memory"]["host"] for plan in plans])
        assert planned[-1] == pytest.approx(measured[-1], rel=0.3)
    growth = [[after - before for before, after in zip(*each, strict=True)] for each in (planned, measured)]
    assert growth[0] == pytest.approx(growth[1], rel=0.5)


def test_a_metric_of_which_nothing_is_known_is_named(run: Path, tmp_path: Path) -> None:
    config = EvaluateConfig.parse({**GEOMETRY, "metrics": [{"name": "geometry"}, {"name": "tpp"}]})
    planned = dry_run([run], config, out=tmp_path, seconds=0)
    assert planned["not_counted"] == ["tpp"]
    assert page(planned)["memory"].endswith("free); not counted: tpp")


def test_more_saes_need_more(toy_cache: Path, tmp_path: Path) -> None:
    folders = [tmp_path / "runs" / f"seed-{seed}" for seed in (1, 2)]
    others = [random_run(out, "relu", toy_cache, seed=seed, d_sae=2048) for seed, out in enumerate(folders)]
    one, both = (
        dry_run(runs, EvaluateConfig.parse(GEOMETRY), out=tmp_path / "none", seconds=0)["memory"]["host"]
        for runs in (others[:1], others)
    )
    weights = 4 * (2 * 128 * 2048 + 2048 + 128)
    assert both - one == pytest.approx(weights + 2048 * 5000, rel=0.05)
