"""The cache of the benchmark's tokens, and the documented config that trains from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from helpers.repository import ROOT
from helpers.tiny_synthbench import TINY
from saepipe.cli import main
from saepipe.data.cache.cache import Cache
from saepipe.evaluate.validate import synthbench_cache
from saepipe.evaluate.validate.synthbench_rows import SIZES, published_rows, training
from saepipe.evaluate.validate.synthbench_training import activation_scale, batches, measure_on_world
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.load import load

CONFIG = ROOT / "configs" / "synthbench-cpu.yaml"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """The cache that the command writes, of two shards."""
    monkeypatch.setitem(SIZES, "cpu", TINY)
    monkeypatch.setattr(synthbench_cache, "SHARD_ROWS", 128)
    monkeypatch.setattr(synthbench_cache, "CHUNK_ROWS", 32)
    folder = tmp_path / "cache"
    assert main(["validate", "--world", "synthbench-v2", "--cache", str(folder), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_tokens"] == 192
    return folder


def test_it_holds_the_tokens_of_the_stream_in_another_order(cache: Path) -> None:
    written, drawn = Cache.open(cache)[:], torch.cat([batch.x for batch in batches(TINY, TINY.bench.world(), 0)])
    order = [sorted(range(len(rows)), key=rows.float().tolist().__getitem__) for rows in (written, drawn.bfloat16())]
    assert torch.equal(written[order[0]], drawn.bfloat16()[order[1]])
    assert order[0] != order[1]
    assert main(["cache", "verify", str(cache)]) == 0


def test_the_documented_config_is_the_row_batch_topk() -> None:
    size, documented = SIZES["cpu"], TrainConfig.load(CONFIG)
    row = TrainConfig.parse(training(size, published_rows(size)["batch_topk"], 0))
    assert {key for key in row.to_dict() if row.to_dict()[key] != documented.to_dict()[key]} == {"cache"}


def test_a_run_from_the_cache_is_an_sae_of_the_world(cache: Path, tmp_path: Path) -> None:
    """Its scale is the world's, and the benchmark's metrics measure it."""
    raw = training(TINY, published_rows(TINY)["matching_pursuit"], 0) | {"cache": str(cache)}
    config, world = TrainConfig.parse(raw), TINY.bench.world()
    (run,) = train(config, tmp_path / "runs")
    sae = load(run)
    assert sae.metadata["saepipe"]["activation_scale"] == pytest.approx(activation_scale(world), rel=0.1)
    metrics = measure_on_world(TINY, world, config, dict(sae.named_parameters()))
    assert metrics.l0 == pytest.approx(3, abs=0.1)
    assert metrics.explained_variance > 0
