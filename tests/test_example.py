"""The penalty of examples/: a file outside the package that keeps the contract and trains like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helpers.repository import EXAMPLES
from saepipe.data.config.component import import_plugins
from saepipe.train.config import TrainConfig
from saepipe.train.penalties.base import Penalty
from saepipe.train.penalties.contract import CHECKS
from saepipe.train.run import train

pytestmark = pytest.mark.quick

HOYER = EXAMPLES / "hoyer.py"


@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract(check: str) -> None:
    import_plugins([HOYER])
    penalty = Penalty.member("hoyer").parse({"weight": 0.5})
    assert isinstance(penalty, Penalty)
    assert CHECKS[check](penalty) is None


def test_it_trains_and_is_logged(tiny_cache: Path, tmp_path: Path) -> None:
    raw = {
        "plugins": [str(HOYER)],
        "cache": str(tiny_cache),
        "sae": {"name": "relu", "d_sae": 40},
        "penalties": [{"name": "hoyer", "weight": {"start": 1.0, "end": 0.5, "shape": "cosine"}}],
        "steps": 30,
        "batch_size": 64,
        "optimizer": {"lr": 3e-3},
        "log_every": 10,
        "device": "cpu",
    }
    (run,) = train(TrainConfig.parse(raw), tmp_path)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 10, 20, 30]
    assert all(line["terms"]["hoyer"]["gradient_share"] > 1e-3 for line in lines)
    assert all(line["statistics"]["hoyer/ratio"] > 1 for line in lines)
