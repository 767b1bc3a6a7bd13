"""Gemma Scope 2's folders: its SAEs and transcoders are read, its crosscoders refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.other_libraries import D_IN, check_function, randn, tensors, write_gemma_scope_2
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats import gemma_scope
from saepipe.train.sae.transcoder import skipped

pytestmark = pytest.mark.quick


def test_gemma_scope_2_has_the_function_that_its_authors_give(tmp_path: Path, rows: Tensor) -> None:
    """b_dec is not subtracted from x; the folder and the file in it give the same SAE."""
    folder = write_gemma_scope_2(tmp_path / "resid_post" / "layer_9_width_16k_l0_small")
    w = tensors("JumpReluAutoEncoder")
    p = rows @ w["W_enc"] + w["b_enc"]
    acts = (p > w["threshold"]) * p.relu()
    for path in (folder, folder / "params.safetensors"):
        source = gemma_scope.source(path)
        check_function(source, rows, acts, acts @ w["W_dec"] + w["b_dec"])
        assert (source.name, source.layer) == ("layer_9_width_16k_l0_small", 9)
        assert (source.hook, source.model) == ("blocks.9.hook_resid_post", "google/gemma-3-1b-pt")
        assert source.config["l0"] == 7


@pytest.mark.parametrize(
    ("point", "hook"),
    [
        ("model.language_model.layers.3.output", "blocks.3.hook_resid_post"),
        ("model.layers.3.self_attn.o_proj.input", "blocks.3.attn.hook_z"),
        ("model.layers.3.post_feedforward_layernorm.output", "blocks.3.hook_mlp_out"),
        ("model.layers.3.something.output", "blocks.3.something.output"),
        (None, None),
    ],
)
def test_the_hook_of_a_gemma_scope_2_sae(tmp_path: Path, point: str | None, hook: str | None) -> None:
    folder = write_gemma_scope_2(tmp_path / "some", hf_hook_point_in=point, hf_hook_point_out=point)
    assert gemma_scope.source(folder).hook == hook


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("gemma-v3-1b-it", "google/gemma-3-1b-it"),
        ("google/gemma-3-270m-pt", "google/gemma-3-270m"),
        ("google/gemma-3-270m-it", "google/gemma-3-270m-it"),
        (None, None),
    ],
)
def test_model_names_of_gemma_scope_2_become_those_of_the_hub(
    tmp_path: Path, name: str | None, model: str | None
) -> None:
    assert gemma_scope.source(write_gemma_scope_2(tmp_path / "some", model_name=name)).model == model


IN = {"hf_hook_point_in": "model.layers.9.pre_feedforward_layernorm.output"}
OUT = {"hf_hook_point_out": "model.layers.9.post_feedforward_layernorm.output"}


@pytest.mark.parametrize("skip", [False, True])
def test_a_transcoder_of_gemma_scope_2_has_the_function_that_its_authors_give(
    tmp_path: Path, rows: Tensor, skip: bool
) -> None:
    """x W_enc + b_enc, its JumpReLU, the decoder, and the affine map of x if there is one."""
    w, W_skip = tensors("JumpReluAutoEncoder"), randn(D_IN, D_IN, seed=7, scale=0.2)
    more = {"affine_skip_connection": W_skip} if skip else {}
    folder = write_gemma_scope_2(
        tmp_path / "transcoder" / "layer_9", more, type="transcoder", affine_connection=skip, **IN, **OUT
    )
    source = gemma_scope.source(folder)
    assert (source.hook, source.target, source.layer) == ("blocks.9.hook_mlp_in", "blocks.9.hook_mlp_out", 9)
    p = rows @ w["W_enc"] + w["b_enc"]
    acts = (p > w["threshold"]) * p.relu()
    check_function(source, rows, acts, acts @ w["W_dec"] + w["b_dec"])
    added = skipped(source.params, rows)
    assert (added is not None) == skip
    if added is not None:
        torch.testing.assert_close(added, rows @ W_skip)


def test_a_transcoder_without_its_sites_is_one_still(tmp_path: Path) -> None:
    points = {"hf_hook_point_in": None, "hf_hook_point_out": None}
    source = gemma_scope.source(write_gemma_scope_2(tmp_path / "some", type="transcoder", **points))
    assert source.is_transcoder
    assert (source.hook, source.target) == (None, None)


def test_what_gemma_scope_2_has_besides_is_refused(tmp_path: Path) -> None:
    others: list[tuple[dict[str, Any], str]] = [
        ({"type": "crosscoder"}, "of type 'crosscoder'"),
        ({"architecture": "topk"}, "architecture is 'topk'\n  hint: supported: jump_relu"),
        ({"width": 48}, "has 40 latents, but config.json says width 48"),
        ({"more": {"w_enc": torch.zeros(3)}}, "no matrix w_enc among its tensors"),
        ({"more": {"extra": torch.zeros(3)}}, "unexpected tensors extra"),
    ]
    for number, (change, words) in enumerate(others):
        with pytest.raises(ConfigError, match=words):
            gemma_scope.source(write_gemma_scope_2(tmp_path / f"other {number}", **change))
    with pytest.raises(CorruptDataError, match="says affine_connection, but params.safetensors has no skip"):
        gemma_scope.source(write_gemma_scope_2(tmp_path / "no skip", affine_connection=True))
    torn = write_gemma_scope_2(tmp_path / "torn")
    (torn / "params.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptDataError):
        gemma_scope.source(torn)
    (torn / "config.json").unlink()
    with pytest.raises(ConfigError, match=r"config\.json is missing"):
        gemma_scope.source(torn)
