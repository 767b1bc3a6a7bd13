"""Checkpoints that are not whole are refused by name; tokens that are special."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AddedToken

from saepipe.data.errors import ConfigError, CorruptDataError, OutOfSpaceError
from saepipe.data.toy import MODEL_DIR
from saepipe.harvest.model import load_model, tokenizer_fingerprint
from saepipe.harvest.model_config import ModelConfig

pytestmark = pytest.mark.quick

WEIGHT = "model.layers.1.mlp.down_proj.weight"
WEIGHTS = load_file(MODEL_DIR / "model.safetensors")
WITHOUT = {name: tensor for name, tensor in WEIGHTS.items() if name != WEIGHT}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(MODEL_DIR, tmp_path / "model")


def load(folder: Path) -> None:
    load_model(ModelConfig(model=str(folder), device="cpu"))


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        (WITHOUT, f"missing: {WEIGHT}$"),
        (WEIGHTS | {"model.layers.9.x": torch.zeros(3)}, r"unexpected: model\.layers\.9\.x$"),
        (WEIGHTS | {WEIGHT: torch.zeros(3, 3)}, rf"of another shape: {WEIGHT} \(3, 3\), not \(128, 384\)$"),
        ({name: WEIGHTS[name] for name in list(WEIGHTS)[:20]}, r"missing: .* and 18 more$"),
    ],
    ids=["missing", "unexpected", "mismatched", "many missing"],
)
def test_a_checkpoint_has_exactly_the_models_weights(
    folder: Path, weights: dict[str, torch.Tensor], problem: str
) -> None:
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=rf"(?m)does not have the weights of its model:\n  {problem}"):
        load(folder)


@pytest.mark.parametrize("size", [0, 5, 1000, 100_000, -1])
def test_truncated_weights_are_damage(folder: Path, size: int) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptDataError, match="the weights of .* are damaged"):
        load(folder)


def test_a_model_that_does_not_fit_in_memory_is_out_of_space(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 2**42}))
    with pytest.raises(OutOfSpaceError, match="does not fit in memory as bfloat16: .*allocate") as raised:
        load(folder)
    assert raised.value.exit_code == 5


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
@pytest.mark.parametrize("size", [0, 20, -2])
def test_truncated_descriptions_are_refused(folder: Path, name: str, size: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:size])
    with pytest.raises(ConfigError, match="cannot load"):
        load(folder)


def test_a_folder_without_tokenizer_files_is_refused(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match="cannot load"):
        load(folder)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ConfigError, match="makes no ordinary token of any text: are its files missing"):
        load(folder)


def test_every_token_flagged_as_special_is_special() -> None:
    """Also one without a role, such as Llama 3's header tokens, which `all_special_ids` leaves out."""
    lm = load_model(ModelConfig(dtype="float32", device="cpu"))
    digest = tokenizer_fingerprint(lm.tokenizer)
    before = lm.special_ids
    lm.tokenizer.add_tokens([AddedToken("<|header|>", special=True), AddedToken("<|plain|>", special=False)])
    header, plain = lm.tokenizer.convert_tokens_to_ids(["<|header|>", "<|plain|>"])
    assert header not in lm.tokenizer.all_special_ids
    assert lm.special_ids == before | {header}
    assert plain not in lm.special_ids
    assert replace(lm, stored_special_ids=before).special_ids == before  # a cache from before
    assert tokenizer_fingerprint(lm.tokenizer) != digest  # the vocabulary grew
