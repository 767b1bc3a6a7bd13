"""A small stream of the toy, and a training that it feeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saepipe.harvest.config import HarvestConfig
from saepipe.train.config import TrainConfig

VARIANTS = [{"name": "narrow"}, {"name": "wide", "sae.d_sae": 64}]


@pytest.fixture
def config(toy_config: HarvestConfig, tmp_path: Path) -> Callable[..., TrainConfig]:
    """A config of 90 steps on the 12,000 tokens of `toy_cache`, in pools of 4,096; arguments replace its keys."""
    (tmp_path / "harvest.yaml").write_text(toy_config.to_yaml())

    def make(**changes: Any) -> TrainConfig:
        raw = {
            "cache": "stream",
            "stream": {"harvest": str(tmp_path / "harvest.yaml"), "gb": 0.01},
            "hook": "blocks.2.hook_resid_post",
            "sae": {"name": "topk", "d_sae": 48, "k": 4},
            "activation_scale": "none",
            "steps": 90,
            "batch_size": 128,
            "init": {"b_dec_rows": 500},
            "log_every": 10,
            "checkpoint_every": 25,
            "device": "cpu",
            "variants": VARIANTS,
        }
        return TrainConfig.parse({**raw, **changes})

    return make
