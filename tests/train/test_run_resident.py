"""Training from a resident cache gives the same run as from a streamed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.plan import plan_runs
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run


def config(cache: Path, **keys: Any) -> TrainConfig:
    raw = {"cache": str(cache), "sae": {"name": "relu", "d_sae": 40}, "penalties": [{"name": "l1", "weight": 0.05}]}
    return TrainConfig.parse({**raw, "steps": 6, "batch_size": 33, "device": "cpu", "seeds": [0, 1], **keys})


def test_resident_and_streamed_runs_are_identical(tiny_cache: Path, tmp_path: Path) -> None:
    streamed = train(config(tiny_cache), tmp_path / "streamed")
    resident = train(config(tiny_cache, resident="ram"), tmp_path / "resident", progress=Silent())
    for run, twin in zip(streamed, resident, strict=True):
        assert open_run(run).run_id == open_run(twin).run_id
        weights = [path / "sae" / "sae_weights.safetensors" for path in (run, twin)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_run_may_be_resumed_with_its_cache_in_other_memory(tiny_cache: Path, tmp_path: Path) -> None:
    class Killed(Exception):  # noqa: N818 - a crash, not an error
        pass

    class KillAt(Silent):
        def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
            if (tmp_path / "killed" / "base" / "seed-1" / "checkpoints" / "3").exists():
                raise Killed

    with pytest.raises(Killed):
        train(config(tiny_cache, checkpoint_every=3), tmp_path / "killed", progress=KillAt())
    resumed = train(config(tiny_cache, checkpoint_every=3, resident="ram"), tmp_path / "killed", resume="must")
    uninterrupted = train(config(tiny_cache, checkpoint_every=3), tmp_path / "uninterrupted")
    for run, twin in zip(resumed, uninterrupted, strict=True):
        weights = [path / "sae" / "sae_weights.safetensors" for path in (run, twin)]
        assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_missing_gpu_is_found_when_planning(tiny_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resident: gpu needs a CUDA device, but the device is cpu"):
        plan_runs(config(tiny_cache, resident="gpu"), tmp_path)


def test_variants_share_the_resident_cache(tiny_cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sets 'resident'"):
        plan_runs(config(tiny_cache, variants=[{"name": "a", "resident": "ram"}]), tmp_path)
