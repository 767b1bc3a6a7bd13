"""Findings are told once per variant while training, grouped over its seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.run import train


def test_seeds_of_a_variant_share_a_line(config: Callable[..., TrainConfig], tmp_path: Path) -> None:
    progress = Silent()
    train(config(seeds=[0, 1, 2], health={"least_variance": 1.0, "most_l0": 1.0}), tmp_path / "runs", progress=progress)
    (line,) = [line for line in progress.said if "explained variance" in line]
    assert ", 3 seeds: H9 error (degenerate SAE): the explained variance is " in line
    assert " to " in line.partition(", below")[0]
    (summary,) = [line for line in progress.said if "CANNOT SHOW" in line]
    assert summary.startswith("3 OF 3 RUNS")
    assert summary.endswith(", 3 seeds (H9)")
