"""Qwen-Scope, which no library writes: SAELens' reader and ours give the same function."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from helpers.dictionaries import convert_here
from helpers.other_libraries import D_IN, D_SAE, K, randn
from helpers.random_runs import clear_rows
from helpers.scopes import write_qwen_scope
from saepipe.train.formats import qwen_scope

pytestmark = pytest.mark.interop


@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_qwen_scope(sae_lens: ModuleType, repository: Path, compare: Any, mean: float) -> None:
    loaders = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
    file = write_qwen_scope(repository / "layer7.sae.pt")
    config, weights, _ = loaders.qwen_scope_sae_huggingface_loader(
        "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50",
        file.name,
        cfg_overrides={"d_in": D_IN, "d_sae": D_SAE, "activation_fn_kwargs": {"k": K}},
    )
    theirs = sae_lens.SAE.from_dict(loaders.handle_config_defaulting(config))
    theirs.load_state_dict(weights)
    source = qwen_scope.source(file, convert_here(file, repository / "weights.safetensors"), K)
    assert config["hook_name"] == source.hook
    x = clear_rows(source.sae, source.params, mean + randn(200, D_IN, seed=9, scale=2.0))
    acts = source.sae.encode(source.params, x)
    compare(
        "qwen-scope",
        "SAELens and ours",
        "topk",
        (acts, source.sae.decode(source.params, acts)),
        (theirs.encode(x), theirs(x)),
    )
