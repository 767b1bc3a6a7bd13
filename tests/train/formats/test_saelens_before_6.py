"""Folders written by SAELens 3 to 5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from helpers.other_libraries import D_IN, D_SAE, K, check_function, tensors
from saepipe.data.errors import ConfigError
from saepipe.train.formats import saelens

pytestmark = pytest.mark.quick


def older(folder: Path, weights: dict[str, Tensor], **config: Any) -> Path:
    """Writes a folder of SAELens 3 to 5, whose config is one flat mapping."""
    folder.mkdir()
    save_file(weights, folder / "sae_weights.safetensors")
    keys = {"d_in": D_IN, "d_sae": D_SAE, "dtype": "float32", "model_name": "gpt2-small", "hook_layer": 1}
    keys |= {"hook_name": "blocks.1.hook_resid_pre", "sae_lens_training_version": None, "normalize_activations": False}
    (folder / "cfg.json").write_text(json.dumps(keys | config))
    return folder


def test_saelens_folders_from_before_version_6_are_read(tmp_path: Path, rows: Tensor) -> None:
    theirs = tensors("MatryoshkaBatchTopKSAE")
    w = {name: theirs[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    plain = saelens.source(older(tmp_path / "plain", {**w, "scaling_factor": torch.ones(D_SAE)}))
    acts = ((rows - w["b_dec"]) @ w["W_enc"] + w["b_enc"]).relu()
    check_function(plain, rows, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (plain.name, plain.model, plain.hook) == ("plain", "gpt2-small", "blocks.1.hook_resid_pre")
    topk = {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}, "apply_b_dec_to_input": False}
    kept = (rows @ w["W_enc"] + w["b_enc"]).topk(K, dim=-1)
    acts = torch.zeros(len(rows), D_SAE).scatter(-1, kept.indices, kept.values.relu())
    check_function(saelens.source(older(tmp_path / "topk", w, **topk)), rows, acts, acts @ w["W_dec"] + w["b_dec"])


def test_older_folders_with_unsupported_settings_are_refused(tmp_path: Path) -> None:
    theirs = tensors("MatryoshkaBatchTopKSAE")
    w = {name: theirs[name] for name in ("W_enc", "b_enc", "W_dec", "b_dec")}
    with pytest.raises(ConfigError, match="activation_fn is 'tanh-relu'"):
        saelens.source(older(tmp_path / "tanh", w, activation_fn_str="tanh-relu"))
    with pytest.raises(ConfigError, match="scaling_factor other than 1"):
        saelens.source(older(tmp_path / "scaled", {**w, "scaling_factor": torch.full((D_SAE,), 1.1)}))
    with pytest.raises(ConfigError, match="expected_average_only_in"):
        saelens.source(older(tmp_path / "normalised", w, normalize_activations=True))
    heads = saelens.source(older(tmp_path / "heads", w, hook_name="blocks.1.attn.hook_z"))
    assert heads.hook == "blocks.1.attn.hook_z"  # all heads, one after the other, as ours
    with pytest.raises(ConfigError, match="architecture is 'batchtopk'\n  hint: supported: standard, topk"):
        saelens.source(older(tmp_path / "checkpoint", w, architecture="batchtopk"))
    folder = older(tmp_path / "bare", w)
    (folder / "cfg.json").write_text('{"d_sae": 40, "sae_lens_version": "6.1.0"}')
    with pytest.raises(ConfigError, match="does not say architecture, d_in"):
        saelens.source(folder)
