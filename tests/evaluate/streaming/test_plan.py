"""A dry run of a streamed training tells of both sides, and writes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from saepipe.cli import main
from saepipe.data.errors import ConfigError
from saepipe.evaluate.streaming.plan import dry_run_stream
from saepipe.train.config import TrainConfig

Make = Callable[..., TrainConfig]


def test_both_sides_are_planned(config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "train.yaml").write_text(config(steps=None, epochs=1).to_yaml())
    out = tmp_path / "runs"
    assert main(["train", "-c", str(tmp_path / "train.yaml"), "--out", str(out), "--dry-run", "--format", "json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [(run["run"], run["steps"]) for run in told["runs"]] == [("narrow/seed-0", 93), ("wide/seed-0", 93)]
    assert told["harvest"]["tokens"] == 12_000
    assert told["space"]["most_pools"] * told["space"]["pool_bytes"] <= 0.01e9
    assert told["runs"][0]["passes"] == pytest.approx(93 * 128 / 12_000)
    assert not out.exists()


def test_what_training_refuses_is_refused(config: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="reads 12,800 rows, but the stream has 12,000, once"):
        dry_run_stream(config(steps=100), tmp_path / "runs")
