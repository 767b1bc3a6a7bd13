"""Qwen-Scope's files, and the paths that serve as their configs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from helpers.dictionaries import convert_here
from helpers.other_libraries import D_SAE, K, check_function
from helpers.scopes import REPOSITORY, qwen_values, write_qwen_scope
from saepipe.data.errors import ConfigError
from saepipe.train.formats import qwen_scope
from saepipe.train.formats.source import Source

pytestmark = pytest.mark.quick


def read(file: Path, k: int | None = None) -> Source:
    return qwen_scope.source(file, convert_here(file, file.with_suffix(".safetensors")), k)


def test_an_sae_has_the_same_function_as_in_saelens(tmp_path: Path, rows: Tensor) -> None:
    source = read(write_qwen_scope(tmp_path / "layer7.sae.pt"), K)
    check_function(source, rows, *qwen_values(rows))
    assert (source.name, source.layer, source.hook, source.model) == ("layer_7", 7, "blocks.7.hook_resid_post", None)
    assert [file.name for file in source.files] == ["layer7.sae.pt"]


@pytest.mark.parametrize(
    ("repository", "model"),
    [
        (REPOSITORY, "Qwen/Qwen3-1.7B-Base"),
        ("models--Qwen--SAE-Res-Qwen3.5-27B-W32K-L0_50/snapshots/0a", "Qwen/Qwen3.5-27B"),
        ("SAE-Res-Qwen3.5-35B-A3B-Base-W32K-L0_50", "Qwen/Qwen3.5-35B-A3B-Base"),
    ],
)
def test_the_path_gives_k_and_model(tmp_path: Path, repository: str, model: str) -> None:
    source = read(write_qwen_scope(tmp_path / repository / "layer3.sae.pt", d_sae=32 * 1024))
    assert (source.sae.to_dict()["k"], source.sae.d_sae, source.model) == (50, 32_768, model)
    assert source.name.endswith("L0_50-layer_3")


def test_k_must_be_known_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not say k, because its path"):
        read(write_qwen_scope(tmp_path / "layer0.sae.pt"))
    file = write_qwen_scope(tmp_path / REPOSITORY / "layer0.sae.pt", d_sae=32 * 1024)
    assert read(file, 50).sae == read(file).sae
    with pytest.raises(ConfigError, match="its path says L0_50, but k = 100 was given"):
        read(file, 100)
    with pytest.raises(ConfigError, match=r"has 40 latents, but its path says W32K \(32,768\)"):
        read(write_qwen_scope(file))


def test_one_file_named_as_theirs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"layer0\.sae\.pt is missing"):
        qwen_scope.weights_file(tmp_path)
    file = write_qwen_scope(tmp_path / "layer4.sae.pt")
    assert qwen_scope.weights_file(tmp_path) == file
    with pytest.raises(ConfigError, match="can hold code\n  hint: --allow-pickle-format"):
        qwen_scope.source(tmp_path, k=K)
    write_qwen_scope(tmp_path / "layer12.sae.pt")
    with pytest.raises(ConfigError, match=r"holds 2 SAEs: layer12\.sae\.pt, layer4\.sae\.pt"):
        qwen_scope.weights_file(tmp_path)
    with pytest.raises(ConfigError, match="not named as Qwen-Scope's SAEs are"):
        qwen_scope.weights_file(write_qwen_scope(tmp_path / "mine.pt"))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"b_dec": None}, "is not a Qwen-Scope SAE: it lacks b_dec"),
        ({"W_enc": None}, "no matrix W_enc among its tensors"),
        ({"W_enc": torch.zeros(3)}, "no matrix W_enc among its tensors"),
        ({"W_dec": torch.zeros(D_SAE, 24)}, r"W_dec of a Qwen-Scope SAE has shape \(40, 24\), not \(24, 40\)"),
        ({"threshold": torch.zeros(D_SAE)}, "unexpected tensors threshold"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, changed: dict[str, Tensor | None], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(write_qwen_scope(tmp_path / "layer1.sae.pt", changed), K)
