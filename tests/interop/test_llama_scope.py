"""Llama Scope and llamascopium: SAELens' loaders, llamascopium 2.0.0b34 and our reader give the same function."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.other_libraries import D_IN, D_SAE, randn
from helpers.random_runs import clear_rows
from helpers.scopes import HOOK, NORM, parameters, write_llama_scope, write_llamascopium
from saepipe.train.formats import llama_scope
from saepipe.train.formats.source import Source

pytestmark = pytest.mark.interop

SCALE = math.sqrt(D_IN) / NORM
"""What the library multiplies activations by in training."""


@pytest.fixture(scope="session")
def llamascopium() -> ModuleType:
    pytest.importorskip("llamascopium", reason="llamascopium is in no extra: docs/formats.md says how to install it")
    return importlib.import_module("llamascopium.models.sparse_dictionary")


def ours(source: Source, mean: float) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """Returns rows in which rounding alone turns no latent on or off, and our (acts, x_hat) of these."""
    x = clear_rows(source.sae, source.params, mean + randn(200, D_IN, seed=9, scale=2.0))
    acts = source.sae.encode(source.params, x)
    return x, (acts, source.sae.decode(source.params, acts))


@pytest.mark.parametrize("mean", [0.0, 10.0])
def test_llama_scope_in_saelens(
    sae_lens: ModuleType, repository: Path, compare: Any, monkeypatch: pytest.MonkeyPatch, mean: float
) -> None:
    """SAELens leaves decoder norms out, so these rows are unit; its activations are in units of training."""
    loaders = importlib.import_module("sae_lens.loading.pretrained_sae_loaders")
    unit = parameters() | {"D": torch.nn.functional.normalize(parameters()["D"], dim=1)}
    monkeypatch.setattr("helpers.scopes.parameters", lambda: unit)
    folder = write_llama_scope(repository / "Llama3_1-8B-Base-L1R-8x")
    config, weights, _ = loaders.llama_scope_sae_huggingface_loader(
        "fnlp/Llama3_1-8B-Base-LXR-8x", folder.name, cfg_overrides={"dtype": "float32"}
    )
    theirs = sae_lens.SAE.from_dict(config)
    theirs.load_state_dict(weights)
    theirs.fold_activation_norm_scaling_factor(SCALE)
    source = llama_scope.source(folder)
    assert (config["hook_name"], config["model_name"]) == (source.hook, source.model)
    x, values = ours(source, mean)
    compare("llama-scope", "SAELens and ours", "jumprelu", values, (theirs.encode(x) / SCALE, theirs(x)))


@pytest.mark.parametrize("mean", [0.0, 10.0])
@pytest.mark.parametrize("act_fn", ["jumprelu", "relu", "topk"])
@pytest.mark.parametrize("by_norm", [True, False])
@pytest.mark.parametrize("norm_activation", ["dataset-wise", "inference"])
def test_llamascopium(
    llamascopium: ModuleType,
    tmp_path: Path,
    compare: Any,
    act_fn: str,
    by_norm: bool,
    norm_activation: str,
    mean: float,
) -> None:
    folder = write_llamascopium(
        tmp_path / "some",
        act_fn=act_fn,
        sparsity_include_decoder_norm=by_norm,
        norm_activation=norm_activation,
    )
    theirs = llamascopium.SparseDictionary.from_pretrained(str(folder))
    source = llama_scope.source(folder)
    x, values = ours(source, mean)
    batch, scales = theirs.normalize_activations({HOOK: x}, return_scale_factor=True)
    acts = theirs.encode(batch[HOOK])
    x_hat = theirs.denormalize_activations({HOOK: theirs.decode(acts)}, scales)[HOOK]
    acts = acts / scales[HOOK]
    if act_fn == "topk" and by_norm:
        acts = acts * parameters()["D"].norm(dim=1)
    compare("llamascopium", "library to ours", act_fn, values, (acts, x_hat))


@pytest.mark.parametrize("act_fn", ["jumprelu", "relu"])
def test_a_transcoder_of_llamascopium(llamascopium: ModuleType, tmp_path: Path, compare: Any, act_fn: str) -> None:
    target = "blocks.1.hook_mlp_out"
    folder = write_llamascopium(tmp_path / "some", norm_out=7.0, act_fn=act_fn, hook_point_out=target)
    theirs = llamascopium.SparseDictionary.from_pretrained(str(folder))
    x, values = ours(llama_scope.source(folder), 0.0)
    batch, scales = theirs.normalize_activations({HOOK: x, target: x}, return_scale_factor=True)
    acts = theirs.encode(batch[HOOK])
    y_hat = theirs.denormalize_activations({target: theirs.decode(acts)}, scales)[target]
    compare("llamascopium", "library to ours", f"{act_fn} transcoder", values, (acts / scales[HOOK], y_hat))


@pytest.mark.parametrize("act_fn", ["jumprelu", "relu", "topk"])
def test_its_fold_leaves_the_threshold(llamascopium: ModuleType, tmp_path: Path, act_fn: str) -> None:
    """`fold_activation_scale` keeps the function of a relu and a topk, not that of a jumprelu; the import keeps it."""
    folder = write_llamascopium(tmp_path / "some", act_fn=act_fn)
    before, after = (
        llamascopium.SparseDictionary.from_pretrained(str(folder), fold_activation_scale=fold) for fold in (False, True)
    )
    x = randn(2000, D_IN, seed=9, scale=2.0)
    l0 = (before.encode(before.normalize_activations({HOOK: x})[HOOK]) > 0).sum(dim=1).float().mean()
    folded = (after.encode(x) > 0).sum(dim=1).float().mean()
    source = llama_scope.source(folder)
    imported = (source.sae.encode(source.params, x) > 0).sum(dim=1).float().mean()
    assert abs(float(imported - l0)) < 0.01
    assert (abs(float(folded - l0)) < 0.01) is (act_fn != "jumprelu")
    assert 1 < float(l0) < D_SAE - 1
