"""A finished run that is no longer what was sealed is never taken for finished."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from saepipe.data.errors import CorruptDataError
from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.run_damage import damage
from saepipe.train.rundir.sealed_log import read_log

Make = Callable[..., TrainConfig]
FILES = (
    *("sae/sae_weights.safetensors", "sae/cfg.json", "health.json", "config.yaml", "manifest.jsonl"),
    *("metrics.jsonl", "metrics.seal.json"),
)


@pytest.fixture
def run(config: Make, tmp_path: Path) -> Path:
    (run,) = train(config(), tmp_path / "runs")
    assert list(damage(run)) == []
    return run


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("how", [flip, Path.unlink, lambda path: path.write_bytes(b"")])
def test_every_file_is_checked_and_named(run: Path, config: Make, how: Callable[[Path], object]) -> None:
    for name in FILES:
        (whole := run / name).rename(kept := run / "kept")
        shutil.copy(kept, whole)
        how(whole)
        for resume in ("auto", "must"):
            with pytest.raises(CorruptDataError, match=name):
                train(config(), run.parents[1], resume=resume)
        kept.rename(whole)
    assert train(config(), run.parents[1]) == [run]


@pytest.mark.parametrize(
    ("seal", "problem"),
    [(b"", "holds no digest"), (b"\xff\xfe", "holds no digest"), (b"0" * 64, r"manifest\.jsonl was changed after run")],
)
def test_a_damaged_seal(run: Path, config: Make, seal: bytes, problem: str) -> None:
    (run / COMMITTED).write_bytes(seal)
    with pytest.raises(CorruptDataError, match=problem):
        train(config(), run.parents[1])


def test_the_hint_leads_to_the_same_bytes(run: Path, config: Make) -> None:
    before = (run / COMMITTED).read_text()
    flip(run / "sae" / "sae_weights.safetensors")
    with pytest.raises(CorruptDataError) as raised:
        train(config(), run.parents[1])
    assert f"remove {run / COMMITTED}" in str(raised.value.hint)
    (run / COMMITTED).unlink()
    train(config(), run.parents[1])
    assert (run / COMMITTED).read_text() == before
    assert list(damage(run)) == []


def test_a_log_of_another_run_is_found(run: Path, config: Make, tmp_path: Path) -> None:
    (other,) = train(config(seed=1), tmp_path / "others")
    for name in ("metrics.jsonl", "metrics.seal.json"):
        shutil.copy(other / name, run / name)
    with pytest.raises(CorruptDataError, match=r"metrics\.seal\.json belongs to another run"):
        read_log(run)


def test_a_run_is_not_compared_with_a_damaged_neighbour(run: Path, config: Make) -> None:
    flip(run / "health.json")
    progress = Silent()
    (other,) = train(config(variants=[{"name": "other"}]), run.parents[1], progress=progress)
    assert any(f"{other} is not compared with {run}, which is damaged" in sentence for sentence in progress.said)
