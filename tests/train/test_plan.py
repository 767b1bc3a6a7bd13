"""A study that the disk cannot hold is refused before it starts; a finished one needs no disk at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.quota import set_quota
from helpers.read_only import read_only
from saepipe.data.errors import OutOfSpaceError
from saepipe.train.run import train


def test_a_study_that_the_disk_cannot_hold_is_refused(
    tiny_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = {"cache": str(tiny_cache), "device": "cpu", "sae": {"name": "relu", "d_sae": 64}, "steps": 3, "seeds": [0, 1]}
    raw |= {"batch_size": 64, "penalties": [{"name": "l1", "weight": 1.0}]}
    set_quota(monkeypatch, tmp_path, kibibytes=24)  # an SAE needs 12,640 bytes, and two checkpoints 75,840
    with pytest.raises(OutOfSpaceError, match="a study of 2 runs in .* needs 25,280 bytes, but the quota"):
        train(raw, tmp_path / "runs")
    with pytest.raises(OutOfSpaceError, match="needs 176,960 bytes"):
        train(raw | {"checkpoint_every": 2}, tmp_path / "runs")
    assert not list(tmp_path.glob("runs/*/*/config.yaml"))
    set_quota(monkeypatch, tmp_path, kibibytes=25)
    runs = train(raw, tmp_path / "runs")
    set_quota(monkeypatch, tmp_path, kibibytes=0)
    with read_only(tmp_path / "runs"):
        assert train(raw, tmp_path / "runs") == runs
