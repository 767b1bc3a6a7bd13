"""Training on the benchmark's endless stream."""

from __future__ import annotations

import pytest
import torch

from helpers.tiny_synthbench import TINY
from saepipe.data.synthetic import draw_copula
from saepipe.evaluate.validate.synthbench_rows import published_rows, training
from saepipe.evaluate.validate.synthbench_training import (
    HELD_OUT,
    activation_scale,
    batches,
    measure_on_world,
    train_on_world,
)

WORLD = TINY.bench.world()


def test_an_sae_is_a_pure_function_of_its_settings() -> None:
    raw = training(TINY, published_rows(TINY)["l1"], 0)
    (_, first), (_, again) = train_on_world(TINY, WORLD, raw), train_on_world(TINY, WORLD, raw)
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_the_stream_has_each_batch_once() -> None:
    drawn = list(batches(TINY, WORLD, 0))
    assert [len(batch.x) for batch in drawn] == [32] * 6
    on = torch.cat([batch.on_mask(80).any(1) for batch in drawn])
    rows = torch.cat([batch.x for batch in drawn])[on]
    assert len(rows.unique(dim=0)) == len(rows) > 150  # tokens without any feature are all alike


def test_activations_are_scaled_to_a_square_of_one_per_channel() -> None:
    x = activation_scale(WORLD) * draw_copula(WORLD, 3, 0, 20_000).x
    assert x.square().mean().item() == pytest.approx(1, rel=0.02)


def test_an_sae_is_measured_on_raw_held_out_tokens_as_it_chooses_in_training() -> None:
    config, params = train_on_world(TINY, WORLD, training(TINY, published_rows(TINY)["batch_topk"], 0))
    metrics = measure_on_world(TINY, WORLD, config, params)
    tokens = draw_copula(WORLD, HELD_OUT, 1, 1024)
    pre_acts = ((tokens.x - params["b_dec"]) @ params["W_enc"] + params["b_enc"]).relu()
    kept = pre_acts.flatten().sort(descending=True).values[3 * 1024 - 1]
    acts = torch.where(pre_acts >= kept, pre_acts, 0.0)
    error = (tokens.x - acts @ params["W_dec"] - params["b_dec"]).square().sum()
    variance = (tokens.x - tokens.x.mean(0)).square().sum()
    assert metrics.explained_variance == pytest.approx(1 - float(error / variance), abs=1e-5)
    assert metrics.l0 == pytest.approx(3)
    assert params["threshold"].item() == pytest.approx(kept.item(), rel=0.2)  # raw units, too
    assert activation_scale(WORLD) < 0.7
