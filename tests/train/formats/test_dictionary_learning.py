"""dictionary_learning's folders: the same function as in the library, and clear refusals of unsupported ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from helpers.dictionaries import read_dictionary
from helpers.other_libraries import D_SAE, K, check_function, decode, encode, tensors, write_trainer
from saepipe.data.errors import ConfigError, CorruptDataError
from saepipe.train.formats import dictionary_learning, pickle_child, pickle_format


@pytest.mark.parametrize("kind", dictionary_learning.KEYS)
def test_a_dictionary_has_the_same_function_as_in_its_library(tmp_path: Path, rows: Tensor, kind: str) -> None:
    source = read_dictionary(write_trainer(tmp_path / "trainer_4", kind))
    acts = encode(kind, tensors(kind), rows)
    check_function(source, rows, acts, decode(kind, tensors(kind), acts))
    assert (source.name, source.seed, source.layer, source.model) == ("trainer_4", 3, 1, "EleutherAI/Toy")
    assert source.hook == "blocks.1.hook_resid_post"
    assert source.config["buffer"]["ctx_len"] == 128


def test_autoencoder_decoder_rows_become_unit_and_the_function_stays(tmp_path: Path, rows: Tensor) -> None:
    """As in from_pretrained; a latent with a zero decoder row stays unchanged, though the library would divide by 0."""
    changed = tensors("AutoEncoder")["decoder.weight"].clone()
    changed[:, 5] = 0
    source = read_dictionary(write_trainer(tmp_path, "AutoEncoder", {"decoder.weight": changed}))
    norms = source.params["W_dec"].norm(dim=1)
    torch.testing.assert_close(norms, torch.ones(D_SAE).index_fill(0, torch.tensor([5]), 0.0))
    w = tensors("AutoEncoder")
    p = ((rows - w["bias"]) @ w["encoder.weight"].T + w["encoder.bias"]).relu()
    x_hat = source.sae.decode(source.params, source.sae.encode(source.params, rows))
    torch.testing.assert_close(x_hat, p @ changed.T + w["bias"], rtol=1e-5, atol=1e-4)


def test_an_older_topk_without_a_threshold_is_read(tmp_path: Path) -> None:
    assert read_dictionary(write_trainer(tmp_path, "AutoEncoderTopK", {"threshold": None})).sae.num_active == K


@pytest.mark.parametrize("kind", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
@pytest.mark.parametrize("threshold", [-1.0, float("nan")])
def test_a_batch_topk_without_a_threshold_is_refused(tmp_path: Path, kind: str, threshold: float) -> None:
    with pytest.raises(ConfigError, match="none was set"):
        read_dictionary(write_trainer(tmp_path, kind, {"threshold": torch.tensor(threshold)}))


@pytest.mark.parametrize(
    ("submodule", "io", "hook"),
    [
        (None, "out", None),
        (None, "in", "blocks.1.hook_resid_pre"),
        ("resid_pre_layer_1", "out", "blocks.1.hook_resid_pre"),
        ("mlp_out_layer_1", "out", "blocks.1.mlp_out_layer_1"),
        ("residual", "out", None),
    ],
)
def test_the_hook_of_a_dictionary(tmp_path: Path, submodule: str | None, io: str, hook: str | None) -> None:
    folder = write_trainer(tmp_path, "AutoEncoder", submodule_name=submodule)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"buffer": {"io": io}}))
    assert read_dictionary(folder).hook == hook


@pytest.mark.parametrize(
    ("changed", "trainer", "words"),
    [
        ({}, {"dict_class": "CrossCoder"}, "'CrossCoder'\n  hint: supported: AutoEncoder, AutoEncoderTopK"),
        ({}, {"k": 7}, "says k = 6, but config.json says k = 7"),
        ({}, {"dict_size": 80}, r"dict_size\) = \(24, 40\), but config.json says \(24, 80\)"),
        ({"b_dec": None}, {}, "is not a dictionary of class AutoEncoderTopK: it lacks b_dec"),
        ({"log_threshold": torch.zeros(())}, {}, "it has unexpected tensors log_threshold"),
        ({"b_dec": torch.zeros(23)}, {}, r"b_dec of a .* class AutoEncoderTopK has shape \(23,\), not \(24,\)"),
        ({"decoder.weight": torch.zeros(40, 24)}, {}, r"shape \(40, 24\), not \(24, 40\)"),
        ({"encoder.weight": None}, {}, "no matrix encoder.weight, as AutoEncoderTopK needs, among the tensors "),
        ({"k": torch.tensor(41)}, {"k": 41}, "k = 41 is more than d_sae = 40"),
    ],
)
def test_unsupported_and_inconsistent_dictionaries_are_refused(
    tmp_path: Path, changed: dict[str, Tensor | None], trainer: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        read_dictionary(write_trainer(tmp_path, "AutoEncoderTopK", changed, **trainer))


class Harmful:
    """An object whose pickle creates a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_is_not_read_unless_it_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can hold code"):
        dictionary_learning.source(write_trainer(tmp_path / "ae", "AutoEncoder"))


def test_the_process_of_its_own_writes_the_tensors(tmp_path: Path) -> None:
    folder = write_trainer(tmp_path / "ae", "AutoEncoder")
    source = dictionary_learning.source(folder, pickle_format.convert(folder / "ae.pt", tmp_path / "x.safetensors"))
    assert torch.equal(source.params["W_dec"], read_dictionary(folder).params["W_dec"])
    assert [path.name for path in source.files] == ["ae.pt", "config.json"]


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    torch.save({"bias": Harmful(tmp_path / "harm")}, tmp_path / "ae.pt")
    with pytest.raises(CorruptDataError, match="plain tensors") as caught:
        pickle_format.convert(tmp_path / "ae.pt", tmp_path / "x.safetensors")
    assert not (tmp_path / "harm").exists()
    assert "weights_only" not in str(caught.value)  # torch's own message advises to switch it off
    assert not (tmp_path / "x.safetensors").exists()


def test_a_small_pickle_of_a_large_tensor_ends_at_the_limit(tmp_path: Path) -> None:
    """1 KB that would be 8 GB if it were written out."""
    torch.save({"bias": torch.zeros(1).expand(2**31)}, tmp_path / "ae.pt")
    with pytest.raises(CorruptDataError, match="plain tensors"):
        pickle_format.convert(tmp_path / "ae.pt", tmp_path / "x.safetensors")


def test_other_content_and_missing_files_are_named(tmp_path: Path) -> None:
    for value, kind in (([torch.zeros(3)], "list"), ({"k": 3}, "dict"), ({3: torch.zeros(3)}, "dict")):
        torch.save(value, tmp_path / "ae.pt")
        assert pickle_child.convert(tmp_path / "ae.pt", tmp_path / "x.safetensors") == {"holds": kind}
    with pytest.raises(ConfigError, match=r"none\.pt is missing"):
        pickle_format.convert(tmp_path / "none.pt", tmp_path / "x.safetensors")


def test_a_malformed_config_is_refused(tmp_path: Path) -> None:
    folder = write_trainer(tmp_path / "ae", "AutoEncoder")
    (folder / "config.json").write_text("{")
    with pytest.raises(CorruptDataError, match="not JSON"):
        read_dictionary(folder)
    (folder / "config.json").write_text('{"trainer": []}')
    with pytest.raises(ConfigError, match="dict_class is None"):
        read_dictionary(folder)
