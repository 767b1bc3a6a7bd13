"""bench/synthbench.py: every row can be trained, and a second call goes on where the first one ended."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from helpers.repository import BENCH

sys.path.append(str(BENCH))

import record
import synthbench

from saepipe.data.synthetic import SynthBench
from saepipe.train.config import TrainConfig

TINY = replace(
    synthbench.SIZES["cpu"],
    bench=SynthBench(num_features=80, d_in=12, num_roots=4, depth=1, rates=(0.3, 0.02), orthogonal_steps=2),
    d_sae=16,
    l0=3,
    groups=(4, 8),
    batch_size=32,
    num_samples=200,
    num_held_out=1024,
    batches_at_once=4,
)


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


def test_a_row_is_a_pure_function_of_its_settings() -> None:
    world, raw = TINY.bench.world(), synthbench.training(TINY, synthbench.arms(TINY)["l1"], 0)
    first, again = (synthbench.sae_row(TINY, world, raw) | {"seconds": 0} for _ in range(2))
    assert first == again


def test_the_stream_has_each_batch_once() -> None:
    batches = list(synthbench.batches(TINY, TINY.bench.world(), 0))
    assert [len(batch.x) for batch in batches] == [32] * 6
    on = torch.cat([batch.on_mask(80).any(1) for batch in batches])
    rows = torch.cat([batch.x for batch in batches])[on]
    assert len(rows.unique(dim=0)) == len(rows) > 150  # tokens without any feature are all alike
