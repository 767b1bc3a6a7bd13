"""A run from a resident cache is the run from a streamed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.plan import plan
from saepipe.train.run import train
from saepipe.train.rundir.load import open_run


def config(cache: Path, **keys: Any) -> TrainConfig:
    raw = {"cache": str(cache), "sae": {"name": "relu", "d_sae": 40}, "penalties": [{"name": "l1", "weight": 0.05}]}
    return TrainConfig.parse({**raw, "steps": 6, "batch_size": 33, "device": "cpu", "seeds": [0, 1], **keys})


def test_it_is_the_same_run(tiny_cache: Path, tmp_path: Path) -> None:
    streamed = train(config(tiny_cache), tmp_path / "streamed")
    resident = train(config(tiny_cache, resident="ram"), tmp_path / "resident", progress=Silent())
    for one, other in zip(streamed, resident, strict=True):
        assert open_run(one).run_id == open_run(other).run_id
        weights = [path / "sae" / "sae_weights.safetensors" for path in (one, other)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_may_go_on_with_its_cache_elsewhere(tiny_cache: Path, tmp_path: Path) -> None:
    class Killed(Exception):  # noqa: N818 - a crash, not an error
        pass

    class KillAt(Silent):
        def advance(self, amount: int, **figures: float) -> None:
            if (tmp_path / "killed" / "base" / "seed-1" / "checkpoints" / "3").exists():
                raise Killed

    with pytest.raises(Killed):
        train(config(tiny_cache, checkpoint_every=3), tmp_path / "killed", progress=KillAt())
    resumed = train(config(tiny_cache, checkpoint_every=3, resident="ram"), tmp_path / "killed", resume="must")
    whole = train(config(tiny_cache, checkpoint_every=3), tmp_path / "whole")
    for one, other in zip(resumed, whole, strict=True):
        weights = [path / "sae" / "sae_weights.safetensors" for path in (one, other)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_gpu_that_is_not_there_is_seen_in_the_plan(tiny_cache: Path) -> None:
    with pytest.raises(ConfigError, match="resident: gpu, and the device is cpu"):
        plan(config(tiny_cache, resident="gpu"))


def test_variants_share_it(tiny_cache: Path) -> None:
    with pytest.raises(ConfigError, match="sets 'resident'"):
        plan(config(tiny_cache, variants=[{"name": "a", "resident": "ram"}]))
