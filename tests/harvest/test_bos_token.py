"""The token that a config names as BOS: windows begin with it, and the cache's evaluations use it too."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.interrupted_harvests import changed
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.cache_page import cache_page
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.data.toy import MODEL_DIR
from saepipe.evaluate.model.config import ModelSettings
from saepipe.evaluate.model.language_model import load_model_of
from saepipe.harvest.bos_token import bos_note, with_bos
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import make_windows
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig
from saepipe.harvest.plan import plan
from saepipe.harvest.run import harvest
from saepipe.train.run import train

BOS, EOS, SIZE = 2, 1, 32


@pytest.fixture
def lm() -> LanguageModel:
    return load_model(ModelConfig(dtype="float32", device="cpu"))


@pytest.fixture(scope="module")
def base(toy_config: HarvestConfig) -> HarvestConfig:
    sizes = {"num_tokens": 1000, "heldout_tokens": 64, "shard_rows": 512, "chunk_rows": 256, "batch_size": 4}
    return changed(toy_config, hooks=["blocks.1.hook_resid_post"], context_size=SIZE, **sizes)


def contexts(cache: Cache) -> np.ndarray:
    rows = cache.array("contexts")
    return rows.read(0, rows.num_rows)


def test_the_key_is_no_part_of_settings_that_leave_it_at_its_default(base: HarvestConfig) -> None:
    assert "bos_token" not in base.to_dict()
    assert "bos_token" not in base.identity()
    assert changed(base, bos_token="<eos>").identity()["bos_token"] == "<eos>"


def test_a_named_token_opens_windows_and_separates_documents(base: HarvestConfig, tmp_path: Path) -> None:
    cache = harvest(changed(base, bos_token="<eos>"), tmp_path / "cache")
    ids, usual = contexts(cache), contexts(harvest(base, tmp_path / "usual"))
    assert np.array_equal(ids, np.where(usual == BOS, EOS, usual))
    assert (ids[:, 0] == EOS).all()
    assert cache.attributes["bos_id"] == EOS
    assert "each starting with <eos>" in cache_page(cache)["tokens"]
    with pytest.raises(ConfigError, match=r"bos_token: '<eos>' -> '\(absent\)'"):
        harvest(base, tmp_path / "cache")
    with pytest.raises(ConfigError, match=r"bos_token: '\(absent\)' -> '<eos>'"):
        harvest(changed(base, bos_token="<eos>"), tmp_path / "usual")


def test_evaluations_use_the_bos_of_the_cache(base: HarvestConfig, tmp_path: Path) -> None:
    cache = harvest(changed(base, bos_token="<unk>"), tmp_path / "cache")
    messages: list[str] = []
    lm = load_model_of(cache, ModelSettings(device="cpu"), messages.append)
    assert lm.tokenizer.unk_token_id == lm.bos_id == cache.attributes["bos_id"]
    assert messages == []
    assert cache.attributes["model"]["bos_id"] == lm.bos_id
    harvest(changed(base, bos_token="<unk>", num_tokens=1100), tmp_path / "cache")


def test_without_bos_documents_follow_each_other(base: HarvestConfig, tmp_path: Path) -> None:
    cache = harvest(changed(base, bos="none"), tmp_path / "cache")
    usual = contexts(harvest(base, tmp_path / "usual")).ravel()
    ordinary, ids = usual[usual != BOS], contexts(cache).ravel()
    shared = min(len(ids), len(ordinary))
    assert shared > 900
    assert np.array_equal(ids[:shared], ordinary[:shared])
    assert cache.attributes["bos_id"] is None
    assert "without BOS" in cache_page(cache)["tokens"]
    assert load_model_of(cache, ModelSettings(device="cpu")).bos_id == BOS  # before prompts of evaluations


@pytest.mark.parametrize(("bos", "prepended"), [({"bos": "none"}, False), ({"bos_token": "<eos>"}, True)], ids=str)
def test_an_sae_tells_saelens_whether_there_is_a_bos(
    base: HarvestConfig, tmp_path: Path, bos: dict[str, str], prepended: bool
) -> None:
    cache = harvest(changed(base, **bos), tmp_path / "cache")
    sae = {"name": "topk", "d_sae": 256, "k": 8}
    settings = {"cache": str(cache.path), "hook": base.hooks[0], "sae": sae, "steps": 2, "batch_size": 64}
    (run,) = train(settings, tmp_path / "runs")
    metadata = json.loads((run / "sae" / "cfg.json").read_text())["metadata"]
    assert metadata["prepend_bos"] is prepended
    assert metadata["saepipe"].get("bos_token") == bos.get("bos_token")


def test_a_token_without_a_role_is_special_once_it_is_bos(lm: LanguageModel) -> None:
    (token_id,) = lm.tokenizer(" the", add_special_tokens=False)["input_ids"]
    chosen = with_bos(lm, " the")
    assert chosen.bos_id == token_id
    assert chosen.special_ids == lm.special_ids | {token_id}
    assert chosen.identity["tokenizer"] == lm.identity["tokenizer"]


@pytest.mark.parametrize(
    ("token", "problem"),
    [
        ("<|endoftext|>", r"bos_token '<\|endoftext\|>' is not one token: the tokenizer makes \d+ tokens of it"),
        ("two words", "bos_token 'two words' is not one token: the tokenizer makes"),
    ],
)
def test_what_is_not_one_token_is_refused_with_those_that_are_there(
    lm: LanguageModel, token: str, problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem) as raised:
        with_bos(lm, token)
    assert raised.value.hint == "its special tokens are <bos> (BOS), <eos> (EOS), <unk> (UNK), <pad> (PAD)"


def test_a_tokenizer_with_neither_bos_nor_eos_needs_a_choice(lm: LanguageModel, base: HarvestConfig) -> None:
    lm.tokenizer.bos_token = lm.tokenizer.eos_token = None
    lm = replace(lm)
    with pytest.raises(ConfigError, match="has neither a BOS nor an EOS token") as raised:
        next(make_windows(base, lm))
    assert raised.value.hint == "harvest with bos_token: TOKEN, or with bos: none"
    _, window = next(make_windows(changed(base, bos="none"), lm))
    assert len(window.ids) == SIZE
    _, window = next(make_windows(changed(base, bos_token="<pad>"), with_bos(lm, "<pad>")))
    assert window.ids[0] == lm.tokenizer.pad_token_id


@pytest.mark.parametrize(
    "settings", [{"bos": "none", "bos_token": "<eos>"}, {"bos_token": ""}, {"bos_token": 3}], ids=str
)
def test_settings_without_a_meaning_are_refused(base: HarvestConfig, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="bos_token"):
        changed(base, **settings)


def test_a_tokenizer_without_a_bos_of_its_own_is_said(lm: LanguageModel, base: HarvestConfig) -> None:
    assert bos_note(base, lm) is None
    lm.tokenizer.bos_token = None
    assert bos_note(base, lm) == "the tokenizer of toy has no BOS: windows begin with its EOS, <eos>"
    assert "first tokens may take its place" in (bos_note(changed(base, bos="none"), lm) or "")
    assert bos_note(changed(base, bos="none", drop_norm_above=5), lm) is None
    assert bos_note(changed(base, bos_token="<pad>"), with_bos(lm, "<pad>")) is None


def test_a_bos_that_the_tokenizer_does_not_use_is_said_by_the_harvest_and_its_plan(
    base: HarvestConfig, tmp_path: Path
) -> None:
    """As with SmolLM2 and Pythia."""
    model = shutil.copytree(MODEL_DIR, tmp_path / "model")
    definition = json.loads((model / "tokenizer.json").read_text())
    (model / "tokenizer.json").write_text(json.dumps(definition | {"post_processor": None}))
    config = changed(base, model={**base.model.to_dict(), "model": str(model)})
    note = f"the tokenizer of {model} puts no BOS before a text itself; windows begin with its <bos>"
    progress = Silent()
    harvest(config, tmp_path / "cache", progress=progress)
    assert progress.said[0] == note
    assert plan(config, tmp_path / "other").page()["BOS"] == note
