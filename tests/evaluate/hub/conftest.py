"""Two small runs with results, a hub on 127.0.0.1, and a client that may write there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import pytest
from huggingface_hub import HfApi, constants

from helpers.local_hub import Hub, serve
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.run import evaluate
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

CORE = EvaluateConfig.parse({"device": "cpu", "metrics": [{"name": "core", "num_contexts": 4}]})


@pytest.fixture(scope="session")
def trained(toy_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs `one` and `two`, five steps each, evaluated; their configs have a relative path to the cache."""
    folder = tmp_path_factory.mktemp("pushed")
    raw = {"hook": "blocks.1.hook_resid_post", "device": "cpu", "sae": {"name": "relu", "d_sae": 24}, "steps": 5}
    raw |= {"penalties": [{"name": "l1", "weight": 1.0}], "batch_size": 64, "optimizer": {"lr": 3e-3}}
    raw |= {"variants": [{"name": "one"}, {"name": "two", "penalties.0.weight": 2.0}]}
    with chdir(folder):
        runs = train(TrainConfig.parse({**raw, "cache": os.path.relpath(toy_cache)}), Path())
        evaluate(runs, CORE)
    return [folder / run for run in runs]


@pytest.fixture
def runs(trained: list[Path], tmp_path: Path) -> list[Path]:
    """Copies of the runs that a test may change, with files that must not be sent."""
    copies = [Path(shutil.copytree(run, tmp_path / "runs" / run.parent.name / run.name)) for run in trained]
    for run in copies:
        (run / "checkpoints" / "5").mkdir(parents=True)
        for name in ("checkpoints/5/state.safetensors", "notes.json", ".token", "eval/.core.json.partial"):
            (run / name).write_text("not sent")
    return copies


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # keeps large files on this server
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between attempts
    with serve(Hub({})) as served:
        yield served


@pytest.fixture
def api(hub: Hub) -> HfApi:
    return HfApi(endpoint=hub.url, token=hub.writer)
