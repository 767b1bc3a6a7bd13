"""A cache of two sites of different widths: rows, statistics, what a reader sees, and training on either."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from saepipe.data import toy
from saepipe.data.cache import cache as cache_module
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.run import harvest
from saepipe.train.run import train

MLP_OUT, Z = "blocks.0.hook_mlp_out", "blocks.1.attn.hook_z"
WIDTHS = {Z: 32, MLP_OUT: 16}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the folder of a random model with the toy's tokenizer; its heads are wider than its residual stream."""
    folder = tmp_path_factory.mktemp("llama")
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
    LlamaForCausalLM(LlamaConfig(vocab_size=4096, **size, initializer_range=0.3)).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(toy.MODEL_DIR / name, folder)
    return folder


@pytest.fixture(scope="module")
def cache(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Cache:
    config = {
        "model": {"model": str(model), "dtype": "float32", "device": "cpu"},
        "hooks": [Z, MLP_OUT],
        "num_tokens": 1500,
        "heldout_tokens": 256,
        "heldout_share": 0.2,
        "shard_rows": 512,
        "chunk_rows": 256,
        "pool_shards": 2,
        "batch_size": 2,
    }
    return harvest(config, tmp_path_factory.mktemp("sites") / "cache")


def test_each_hook_has_its_own_width(cache: Cache) -> None:
    assert cache.widths == WIDTHS
    assert {hook: cache.acts(hook).shape for hook in cache.hooks} == {Z: (1500, 32), MLP_OUT: (1500, 16)}
    assert {hook: len(cache.stats(hook).mean) for hook in cache.hooks} == WIDTHS
    assert cache.facts()["d_in"] == WIDTHS
    assert cache.damage() == []
    with pytest.raises(ConfigError, match="hooks of several widths"):
        _ = cache.d_in


def test_held_out_rows_are_what_the_model_gives(cache: Cache, model: Path) -> None:
    ids = torch.from_numpy(cache.heldout.contexts[:1].astype(np.int64))
    lm = LlamaForCausalLM.from_pretrained(model, attn_implementation="eager").eval()
    activations = capture(lm, ids, [HookPoint.parse(hook) for hook in cache.hooks])
    for hook in cache.hooks:
        assert torch.equal(cache.heldout.activations(hook, 0, 1), activations[hook].bfloat16())


def test_a_reader_that_knows_one_width_only_refuses_it(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "FORMAT_VERSION", 2)
    with pytest.raises(ConfigError, match="has format version 3"):
        Cache.open(cache.path)


@pytest.mark.parametrize("hook", WIDTHS)
def test_runs_take_the_width_of_their_hook(hook: str, cache: Cache, tmp_path: Path) -> None:
    config = {"cache": str(cache.path), "hook": hook, "sae": {"name": "topk", "d_sae": 24, "k": 4}, "device": "cpu"}
    (run,) = train({**config, "steps": 3, "batch_size": 64, "init": {"b_dec_rows": 256}}, tmp_path / "runs")
    assert f'"d_in": {WIDTHS[hook]}' in (run / "sae" / "cfg.json").read_text()
