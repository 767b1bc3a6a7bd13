"""llamascopium's folders: the same function as in the library, with activations in raw units."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.other_libraries import D_IN, check_function
from helpers.scopes import HOOK, NORM, llamascopium_values, parameters, write_llamascopium
from saepipe.data.errors import ConfigError
from saepipe.train.formats import llama_scope

pytestmark = pytest.mark.quick

SCALE = math.sqrt(D_IN) / NORM


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"sparsity_include_decoder_norm": False},
        {"norm_activation": "inference"},
        {"use_decoder_bias": False},
        {"act_fn": "relu"},
        {"act_fn": "topk"},
        {"act_fn": "topk", "sparsity_include_decoder_norm": False},
    ],
)
def test_an_sae_has_the_same_function_as_in_its_library(
    tmp_path: Path, rows: Tensor, linear: bool, config: dict[str, Any]
) -> None:
    """Its activations are divided by the scale; those of a topk that selects by decoder norms are in units of these."""
    folder = write_llamascopium(tmp_path / "some", linear, **config)
    source = llama_scope.source(folder)
    acts, x_hat = llamascopium_values(folder, rows)
    if source.config["norm_activation"] == "dataset-wise":
        acts = acts / SCALE
    if source.sae.name == "topk" and source.config["sparsity_include_decoder_norm"]:
        acts = acts * parameters()["D"].norm(dim=1)
    check_function(source, rows, acts, x_hat)
    assert (source.name, source.hook, source.sae.name) == ("some", HOOK, source.config["act_fn"])


@pytest.mark.parametrize("act_fn", ["jumprelu", "relu", "topk"])
def test_a_transcoder_has_a_norm_at_either_hook(tmp_path: Path, rows: Tensor, act_fn: str) -> None:
    target, by_norm = "blocks.1.hook_mlp_out", act_fn != "topk"
    folder = write_llamascopium(
        tmp_path / "some", norm_out=7.0, act_fn=act_fn, hook_point_out=target, sparsity_include_decoder_norm=by_norm
    )
    source = llama_scope.source(folder)
    acts, x_hat = llamascopium_values(folder, rows, norm_out=7.0)
    check_function(source, rows, acts / SCALE, x_hat)
    assert (source.hook, source.target, source.is_transcoder) == (HOOK, target, True)


def test_the_threshold_moves_to_raw_units_only_from_units_of_training(tmp_path: Path) -> None:
    threshold = parameters()["log_threshold"].exp() / parameters()["D"].norm(dim=1)
    scaled = llama_scope.source(write_llamascopium(tmp_path / "scaled"))
    torch.testing.assert_close(scaled.params["threshold"], threshold / SCALE)
    folded = llama_scope.source(write_llamascopium(tmp_path / "folded", norm_activation="inference"))
    torch.testing.assert_close(folded.params["threshold"], threshold)


def test_the_norm_may_be_given_if_the_weights_lack_it(tmp_path: Path) -> None:
    folder = write_llamascopium(tmp_path / "some", norm=None)
    with pytest.raises(ConfigError, match="does not say the mean norm"):
        llama_scope.source(folder)
    stored, given = llama_scope.source(write_llamascopium(tmp_path / "stored")), llama_scope.source(folder, NORM)
    assert all(torch.equal(value, stored.params[name]) for name, value in given.params.items())
    with pytest.raises(ConfigError, match="is given as nan"):
        llama_scope.source(write_llamascopium(tmp_path / "nan", norm=math.nan))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"sae_type": "crosscoder"}, "sae_type is 'crosscoder'\n  hint: supported: sae"),
        ({"act_fn": "batchtopk"}, "act_fn is 'batchtopk': it keeps k per token on average over a batch"),
        ({"hook_point_out": "blocks.1.hook_mlp_out"}, "add --activation-norm NORM \\(not for a transcoder"),
        ({"expansion_factor": 2}, r"of a llamascopium SAE has shape \(.*40.*\), not \(.*48.*\)"),
    ],
)
def test_other_dictionaries_are_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        llama_scope.source(write_llamascopium(tmp_path / "some", **config))


def test_a_decoder_bias_must_be_where_the_config_says(tmp_path: Path) -> None:
    path = write_llamascopium(tmp_path / "some", use_decoder_bias=False) / "config.json"
    path.write_text(path.read_text().replace('"use_decoder_bias": false', '"use_decoder_bias": true'))
    with pytest.raises(ConfigError, match="is not a llamascopium SAE: it lacks b_D"):
        llama_scope.source(path.parent)
