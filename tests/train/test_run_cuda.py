"""Whole runs on a CUDA GPU end where the dense run on a CPU ends; without a GPU, sparse runs on the CPU do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.killed_training import KillAfter, Killed
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.sae import screen

Make = Callable[..., TrainConfig]

pytestmark = pytest.mark.cuda
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PATHS = ["never", "always"] if DEVICE == "cuda" else ["always"]  # other tests have dense runs on a CPU
SAES: dict[str, dict[str, Any]] = {
    "relu": {},
    "topk": {"sae": {"name": "topk", "d_sae": 40, "k": 4}, "penalties": [{"name": "auxk"}]},
    "batch_topk": {"sae": {"name": "batch_topk", "d_sae": 40, "k": 4}, "penalties": [{"name": "auxk"}]},
    "jumprelu": {"sae": {"name": "jumprelu", "d_sae": 40}, "penalties": [{"name": "l0", "weight": 0.1}]},
}


def last_line(run: Path) -> dict[str, Any]:
    line: dict[str, Any] = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    return line


@pytest.mark.parametrize("name", SAES)
def test_a_screened_run_on_the_device_ends_like_another(
    config: Make, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screen, "MOST_CANDIDATES", 1.0)
    settings = {**SAES[name], "compute_dtype": "float32", "sparse_steps": "always", "device": DEVICE}
    runs = [train(config(**settings, screen=rule), tmp_path / rule)[0] for rule in ("never", "always")]
    for figure in ("loss", "fvu", "l0"):
        assert last_line(runs[1])[figure] == pytest.approx(last_line(runs[0])[figure], rel=1e-2), figure


@pytest.mark.parametrize("sparse_steps", PATHS)
@pytest.mark.parametrize("name", SAES)
def test_a_run_on_the_device_ends_like_a_dense_one_on_a_cpu(
    config: Make, tmp_path: Path, name: str, sparse_steps: str
) -> None:
    settings = {**SAES[name], "compute_dtype": "float32"}
    (expected,) = train(config(**settings, sparse_steps="never"), tmp_path / "cpu")
    (run,) = train(config(**settings, sparse_steps=sparse_steps, device=DEVICE), tmp_path / "device")
    for figure in ("loss", "fvu", "l0"):
        assert last_line(run)[figure] == pytest.approx(last_line(expected)[figure], rel=1e-2), figure


def test_bfloat16_products_cost_little(config: Make, tmp_path: Path) -> None:
    settings = {**SAES["topk"], "sparse_steps": "always", "device": DEVICE}
    runs = [train(config(**settings, compute_dtype=dtype), tmp_path / dtype)[0] for dtype in ("float32", "bfloat16")]
    assert last_line(runs[1])["fvu"] == pytest.approx(last_line(runs[0])["fvu"], rel=0.05)


@pytest.mark.parametrize("sparse_steps", PATHS)
def test_a_killed_run_on_the_device_is_resumed_bit_for_bit(config: Make, tmp_path: Path, sparse_steps: str) -> None:
    settings = config(**SAES["topk"], sparse_steps=sparse_steps, device=DEVICE, exact=True)
    (uninterrupted,) = train(settings, tmp_path / "uninterrupted")
    with pytest.raises(Killed):
        train(settings, tmp_path / "parts", progress=KillAfter(14))
    (resumed,) = train(settings, tmp_path / "parts", resume="must")
    weights = [run / "sae" / "sae_weights.safetensors" for run in (uninterrupted, resumed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
