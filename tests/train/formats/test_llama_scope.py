"""Llama Scope's folders: the function that its authors' loader gives, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.other_libraries import D_IN, D_SAE, K, check_function
from helpers.scopes import HOOK, NORM, THRESHOLD, llama_scope_values, write_llama_scope
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats import llama_scope

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("config", "architecture"),
    [
        ({}, "jumprelu"),
        ({"sparsity_include_decoder_norm": False}, "jumprelu"),
        ({"norm_activation": "inference"}, "jumprelu"),
        ({"apply_decoder_bias_to_pre_encoder": True}, "jumprelu"),
        ({"act_fn": "topk", "jump_relu_threshold": 0.0}, "topk"),
        ({"act_fn": "topk", "jump_relu_threshold": 0.0, "sparsity_include_decoder_norm": False}, "topk"),
        ({"act_fn": "relu"}, "relu"),
    ],
)
def test_llama_scope_has_the_function_of_its_authors_loader(
    tmp_path: Path, rows: Tensor, config: dict[str, Any], architecture: str
) -> None:
    folder = write_llama_scope(tmp_path / "Llama3_1-8B-Base-L1R-8x", **config)
    source = llama_scope.source(folder)
    check_function(source, rows, *llama_scope_values(folder, rows))
    assert source.sae.name == architecture
    assert (source.name, source.hook) == ("Llama3_1-8B-Base-L1R-8x", HOOK)
    assert source.model == "meta-llama/Llama-3.1-8B"
    assert source.config["top_k"] == K
    assert [file.name for file in source.files] == ["final.safetensors", "hyperparams.json"]


def test_its_threshold_is_in_raw_units_and_the_same_for_all_latents(tmp_path: Path) -> None:
    source = llama_scope.source(write_llama_scope(tmp_path / "some"))
    assert torch.equal(source.params["threshold"], torch.full((D_SAE,), THRESHOLD))
    torch.testing.assert_close(source.params["W_dec"].norm(dim=1), torch.ones(D_SAE))
    assert source.model is None


@pytest.mark.parametrize("by_norm", [True, False])
def test_a_transcoder_has_a_norm_at_either_hook(tmp_path: Path, rows: Tensor, by_norm: bool) -> None:
    target = "blocks.1.hook_mlp_out"
    norms = {"dataset_average_activation_norm": {"in": NORM, "out": 7.0}, "sparsity_include_decoder_norm": by_norm}
    folder = write_llama_scope(tmp_path / "some", hook_point_out=target, **norms)
    source = llama_scope.source(folder)
    check_function(source, rows, *llama_scope_values(folder, rows))
    assert (source.hook, source.target, source.is_transcoder) == (HOOK, target, True)
    with pytest.raises(ConfigError, match="a transcoder has two norms, so a given one is not used"):
        llama_scope.source(folder, NORM)
    other = write_llama_scope(tmp_path / "other", hook_point_out=target, apply_decoder_bias_to_pre_encoder=True)
    with pytest.raises(ConfigError, match=f"but {target} is not what it reads"):
        llama_scope.source(other)


def test_half_precision_is_read_exactly(tmp_path: Path) -> None:
    folder = write_llama_scope(tmp_path / "some", torch.bfloat16, sparsity_include_decoder_norm=False)
    source = llama_scope.source(folder)
    stored = load_file(folder / "checkpoints" / "final.safetensors")
    assert torch.equal(source.params["W_dec"], stored["decoder.weight"].T.float())
    assert {value.dtype for value in source.params.values()} == {torch.float32}


def test_the_norm_may_be_given_if_the_folder_does_not_say_it(tmp_path: Path, rows: Tensor) -> None:
    folder = write_llama_scope(tmp_path / "some", dataset_average_activation_norm=None)
    with pytest.raises(ConfigError, match=r"does not say the mean norm .*\n  hint: add --activation-norm"):
        llama_scope.source(folder)
    check_function(llama_scope.source(folder, NORM), rows, *llama_scope_values(folder, rows))
    with pytest.raises(ConfigError, match="is given as -1"):
        llama_scope.source(folder, -1.0)
    with pytest.raises(ConfigError, match="is given as 3.0, 4.0"):
        llama_scope.source(write_llama_scope(tmp_path / "says"), 4.0)
    with pytest.raises(ConfigError, match="so a given one is not used\n  hint: leave out --activation-norm"):
        llama_scope.source(write_llama_scope(tmp_path / "folded", norm_activation="inference"), NORM)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            {"hook_point_in": "blocks.8.ln2.hook_normalized", "hook_point_out": "blocks.8.hook_mlp_out"},
            "reads blocks.8.ln2.hook_normalized, before the norm's weight is multiplied in; no cache holds that",
        ),
        ({"norm_activation": "token-wise"}, "norm_activation is 'token-wise'; no weights .*unless it is the same"),
        ({"dataset_average_activation_norm": {"in": 3.0, "out": 4.0}}, f"activations at {HOOK} is given as 3.0, 4.0"),
        ({"dataset_average_activation_norm": {"in": "3"}}, "is given as 3\n  hint: one positive number"),
        ({"norm_activation": ["dataset-wise"]}, "norm_activation is \\['dataset-wise'\\]"),
        ({"use_glu_encoder": True}, "use_glu_encoder is true"),
        ({"act_fn": "gelu"}, "act_fn is 'gelu'\n  hint: supported: jumprelu, topk, relu"),
        ({"act_fn": "topk"}, "act_fn is 'topk', but jump_relu_threshold is 0.4\n  hint: set act_fn to 'jumprelu'"),
        ({"jump_relu_threshold": -0.1}, "jump_relu_threshold is -0.1\n  hint: a number of at least 0"),
        ({"act_fn": "topk", "jump_relu_threshold": 0.0, "top_k": 0}, "top_k is 0, not a positive number"),
        ({"act_fn": "topk", "jump_relu_threshold": 0.0, "top_k": 41}, "k = 41 is more than d_sae = 40"),
        ({"d_model": None}, "d_model is None, not a positive number"),
        ({"d_sae": 48}, r"of a llamascopium SAE has shape \(.*40.*\), not \(.*48.*\)"),
        ({"d_sae": None}, r"of a llamascopium SAE has shape \(.*40.*\), not \(.*192.*\)"),
        ({"hook_point_in": None}, "does not say hook_point_in"),
    ],
)
def test_other_functions_and_inconsistent_folders_are_refused(
    tmp_path: Path, config: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        llama_scope.source(write_llama_scope(tmp_path / "some", **config))


def test_files_that_are_missing_or_torn(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hyperparams\.json is missing"):
        llama_scope.source(tmp_path)
    folder = write_llama_scope(tmp_path / "some")
    file = folder / "checkpoints" / "final.safetensors"
    save_file({**load_file(file), "encoder_glu.bias": torch.zeros(D_SAE)}, file)
    with pytest.raises(ConfigError, match=r"unexpected tensors encoder_glu\.bias"):
        llama_scope.source(folder)
    file.write_bytes(b"torn")
    with pytest.raises(CorruptDataError, match=r"final\.safetensors"):
        llama_scope.source(folder)
    file.unlink()
    with pytest.raises(ConfigError, match=r"final\.safetensors is missing"):
        llama_scope.source(folder)


def test_the_hook_gets_our_name(tmp_path: Path) -> None:
    theirs = "blocks.3.hook_mlp_in"  # in TransformerLens, the residual stream before the norm
    folder = write_llama_scope(tmp_path / "some", hook_point_in=theirs, hook_point_out=theirs)
    assert llama_scope.source(folder).hook == "blocks.3.hook_resid_mid"
    assert llama_scope.source(folder).d_in == D_IN
