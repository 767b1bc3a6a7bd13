"""sparsify's folders, with one seed or several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from helpers.other_libraries import D_IN, D_SAE, K, check_function, write_sparsify
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats import sparsify

pytestmark = pytest.mark.quick


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    return write_sparsify(tmp_path / "my run" / "layers.1")


def test_a_sparsify_sae_has_the_same_function_as_in_its_library(sparse: Path, rows: Tensor) -> None:
    w = load_file(sparse / "sae.safetensors")
    kept = ((rows - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu().topk(K, dim=-1)
    acts = torch.zeros(len(rows), D_SAE).scatter(-1, kept.indices, kept.values)
    source = sparsify.source(sparse)
    check_function(source, rows, acts, acts @ w["W_dec"] + w["b_dec"])
    assert (source.name, source.hook, source.model, source.seed) == ("my run", "blocks.1.hook_resid_post", None, None)


def test_sizes_and_dtypes_of_sparsify(tmp_path: Path) -> None:
    """`num_latents` 0 means `expansion_factor` times d_in; pure training settings are ignored."""
    folder = write_sparsify(
        tmp_path / "layers.1", d_sae=2 * D_IN, dtype=torch.bfloat16, num_latents=0, expansion_factor=2, multi_topk=True
    )
    source = sparsify.source(folder)
    assert (source.sae.d_sae, source.params["W_enc"].shape) == (48, (D_IN, 48))
    assert {value.dtype for value in source.params.values()} == {torch.float32}


@pytest.mark.parametrize(
    ("path", "hook", "seed"),
    [
        ("run/layers.3", "blocks.3.hook_resid_post", 5),
        ("run/layers.3/seed7", "blocks.3.hook_resid_post", 7),
        ("run/h.2", "blocks.2.hook_resid_post", 5),
        ("run/language_model.layers.2", "blocks.2.hook_resid_post", 5),
        ("run/layers.3.mlp", "blocks.3.mlp", 5),
        ("run/embed_tokens", None, 5),
    ],
)
def test_the_hook_and_seed_of_a_sparsify_sae(tmp_path: Path, path: str, hook: str | None, seed: int) -> None:
    folder = write_sparsify(tmp_path / path)
    (tmp_path / "run" / "config.json").write_text('{"model": "org/toy", "init_seeds": [5]}')
    source = sparsify.source(folder)
    assert (source.name, source.hook, source.seed, source.model) == ("run", hook, seed, "org/toy")


def test_a_folder_with_several_sparsify_saes_is_refused(tmp_path: Path) -> None:
    for path in ("layers.3/seed0", "layers.3/seed1", "layers.9/seed0"):
        write_sparsify(tmp_path / path)
    listed = "holds 3 SAEs: layers.3/seed0, layers.3/seed1, layers.9/seed0\n  hint: give one of them: .*layers.3/seed0"
    with pytest.raises(ConfigError, match=listed):
        sparsify.source(tmp_path)
    with pytest.raises(ConfigError, match="holds 2 SAEs: seed0, seed1"):
        sparsify.source(tmp_path / "layers.3")
    with pytest.raises(ConfigError, match=r"cfg\.json is missing"):
        sparsify.source(tmp_path / "layers.9" / "seed5")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"activation": "groupmax"}, "activation is 'groupmax': it keeps the largest of each of k groups"),
        ({"transcode": True}, "transcode is True: it is a transcoder"),
        ({"skip_connection": True}, "skip_connection is True: it adds a linear map"),
        ({"signed": True}, "signed is True: it keeps the largest by absolute value"),
        ({"k": None}, "does not say k"),
        ({"k": 41}, "k = 41 is more than d_sae = 40"),
        ({"num_latents": 48}, r"has shape \(40, 24\), not \(48, 24\)"),
    ],
)
def test_unsupported_sparsify_saes_are_refused(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sparsify.source(write_sparsify(tmp_path / "layers.1", **config))


def test_unexpected_tensors_and_torn_files_are_refused(sparse: Path) -> None:
    weights = load_file(sparse / "sae.safetensors")
    save_file(weights | {"W_skip": torch.zeros(D_IN, D_IN)}, sparse / "sae.safetensors")
    with pytest.raises(ConfigError, match="unexpected tensors W_skip"):
        sparsify.source(sparse)
    (sparse / "sae.safetensors").write_bytes(b"torn")
    with pytest.raises(CorruptDataError):
        sparsify.source(sparse)
    (sparse / "sae.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"sae\.safetensors is missing"):
        sparsify.source(sparse)
