"""Whole trainings with stacked runs: each ends as it does alone, up to rounding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.killed_training import KillAfter, Killed
from saepipe.data.errors import HealthError
from saepipe.data.folders.artifact import read_manifest
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

Make = Callable[..., TrainConfig]
LRS = [{"name": "slow"}, {"name": "fast", "optimizer.lr": 1e-2}, {"name": "weak", "penalties.0.weight": 0.1}]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "sae" / "sae_weights.safetensors")


def assert_close(run: Path, expected: Path, *, exactly: bool = False) -> None:
    rtol, atol = (0.0, 0.0) if exactly else (1e-3, 1e-5)
    torch.testing.assert_close(weights(run), weights(expected), rtol=rtol, atol=atol)


def flat(value: Any, path: str = "") -> dict[str, float]:
    if isinstance(value, dict):
        return {name: number for key, item in value.items() for name, number in flat(item, f"{path}/{key}").items()}
    return {path: float(value)}


def metrics(run: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [flat({key: value for key, value in line.items() if key != "tokens_per_second"}) for line in lines]


def stacked(run: Path) -> int:
    return int(read_manifest(run)[0]["stacked"])


def test_stacked_runs_equal_exact_ones(config: Make, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"variants": LRS, "seeds": [0, 1]}
    exact = train(config(**changes), tmp_path / "exact")
    together = train(config(**changes, exact=False), tmp_path / "together")
    assert len(together) == 6
    for run, twin in zip(together, exact, strict=True):
        assert (stacked(run), stacked(twin)) == (6, 1)
        assert read_manifest(run)[0]["run_id"] == read_manifest(twin)[0]["run_id"]
        assert_close(run, twin)
        for line, expected in zip(metrics(run), metrics(twin), strict=True):
            assert line == pytest.approx(expected, rel=1e-3, abs=1e-6)


def test_logging_of_a_stack_changes_nothing(config: Make, tmp_path: Path) -> None:
    common: dict[str, Any] = {"exact": False, "seeds": [0, 1]}
    rarely = train(config(log_every=100, checkpoint_every=100, **common), tmp_path / "rarely")
    always = train(config(log_every=1, checkpoint_every=1, **common), tmp_path / "always")
    for run, twin in zip(rarely, always, strict=True):
        assert_close(run, twin, exactly=True)


def test_a_killed_stack_is_resumed(config: Make, tmp_path: Path) -> None:
    """Resumed as a stack it agrees bit for bit; with each run alone, up to rounding."""
    changes: dict[str, Any] = {
        "sae": {"name": "topk", "d_sae": 40, "k": 4},
        "penalties": [{"name": "auxk"}],
        "dead": {"after_tokens": 60},
        "variants": [{"name": "slow"}, {"name": "fast", "optimizer.lr": 1e-2}],
    }
    uninterrupted = train(config(**changes, exact=False), tmp_path / "uninterrupted")
    for exact in (False, True):
        parts = tmp_path / f"exact {exact}"
        with pytest.raises(Killed):
            train(config(**changes, exact=False), parts, progress=KillAfter(12))
        resumed = train(config(**changes, exact=exact), parts, resume="must")
        for run, twin in zip(resumed, uninterrupted, strict=True):
            assert_close(run, twin, exactly=not exact)
            assert stacked(run) == 2  # before the kill
            if not exact:
                assert metrics(run) == metrics(twin)


def test_runs_are_stacked_once_the_later_one_has_caught_up(config: Make, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(config(exact=False), tmp_path, progress=KillAfter(12))
    assert stacked(tmp_path / "base" / "seed-0") == 1
    variants = [{"name": "base"}, {"name": "new", "penalties.0.weight": 0.1}]
    paths = train(config(exact=False, variants=variants), tmp_path)
    assert [stacked(path) for path in paths] == [2, 2]
    for run, twin in zip(paths, train(config(variants=variants), tmp_path / "exact"), strict=True):
        assert_close(run, twin)


def test_a_variant_that_breaks_stops_alone(config: Make, tmp_path: Path) -> None:
    """It leaves the stack, and the others continue in a smaller one."""
    explodes = {"start": 0.1, "end": 3e38, "shape": "exponential", "finish": 0.5}
    variants = [
        {"name": "one"},
        {"name": "broken", "penalties.0.weight": explodes},
        {"name": "two", "penalties.0.weight": 0.1},
    ]
    common: dict[str, Any] = {"optimizer": {"clip": None, "warmup": 0}, "log_every": 4}
    with pytest.raises(HealthError, match=r"1 of 3 runs failed:\n.*broken/seed-0: H7 .*not finite at step 1\d"):
        train(config(variants=variants, exact=False, **common), tmp_path)
    assert not (tmp_path / "broken" / "seed-0" / "COMMITTED").exists()
    sound = [variants[0], variants[2]]
    for path in train(config(variants=sound, **common), tmp_path / "sound"):
        twin = tmp_path / path.parent.name / path.name
        assert stacked(twin) == 3
        assert_close(twin, path)


def test_on_a_cpu_runs_are_exact_by_default(config: Make, tmp_path: Path) -> None:
    (exact, default) = (
        train(config(seeds=[0, 1], **changes), tmp_path / str(number))
        for number, changes in enumerate(({"exact": True}, {}))
    )
    assert [stacked(path) for path in (*exact, *default)] == [1, 1, 1, 1]
    assert "exact: true" in (default[0] / "config.yaml").read_text()
    for run, twin in zip(exact, default, strict=True):
        assert_close(run, twin, exactly=True)
