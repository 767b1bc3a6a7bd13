"""bench/synthbench.py: every row can be trained, and a second call goes on where the first one ended."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from helpers.repository import BENCH
from helpers.tiny_synthbench import TINY

sys.path.append(str(BENCH))

import record
import synthbench

from saepipe.train.config import TrainConfig


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(synthbench, "RESULTS", tmp_path)
    monkeypatch.setitem(synthbench.SIZES, "cpu", TINY)
    return tmp_path / "synthbench_cpu.json"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["synthbench.py", "--device", "cpu", *arguments])
    synthbench.main()


def test_every_row_of_both_sizes_is_a_training_config() -> None:
    for size in synthbench.SIZES.values():
        rows = synthbench.arms(size)
        assert set(synthbench.PUBLISHED) < set(rows)
        for arm in rows.keys() - {synthbench.PROBES}:
            config = TrainConfig.parse(synthbench.training(size, rows[arm], 0))
            assert config.steps == size.num_samples // size.batch_size
            assert config.sae.d_sae == size.d_sae


def test_a_second_call_trains_only_what_is_missing(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, "--arms", "batch_topk", "probes")
    first = json.loads(results.read_text())["rows"]
    run(monkeypatch, "--arms", "batch_topk", "probes", "matryoshka + ortsae", "--seeds", "2")
    rows = json.loads(results.read_text())["rows"]
    assert rows[:2] == first
    assert [(row["arm"], row["seed"]) for row in rows[2:]] == [
        ("matryoshka + ortsae", 0),
        ("batch_topk", 1),
        ("probes", 1),
        ("matryoshka + ortsae", 1),
    ]
    assert rows[0]["l0"] == pytest.approx(3)
    assert 0 <= rows[1]["f1"] <= 1
    capsys.readouterr()
    run(monkeypatch, "--table")
    table = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in table[2:]] == ["| batch_topk", "| probes", "| matryoshka + ortsae"]
