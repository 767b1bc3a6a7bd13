"""A model or tokenizer that does something else is refused on resume and in evaluations; a mere upgrade passes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.interrupted_harvests import changed, contents
from helpers.resealed import replace_file, reseal
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.data.toy import MODEL_DIR
from saepipe.evaluate.model.config import ModelSettings
from saepipe.evaluate.model.language_model import load_model_of
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.identity import Comparison, compare
from saepipe.harvest.run import harvest

VERSIONS = {"transformers": "5.1", "tokenizers": "0.22"}
UPGRADED = {"transformers": "5.2", "tokenizers": "0.22"}
STORED = {
    "id": "m",
    "weights": "w",
    "tokenizer": "t",
    "config": {"softcap": 30.0, "rope": {"theta": 1e4}, "layers": ["a", "b"]},
    "definition": "d",
    "probe": "p",
}


def edit(path: Path, **settings: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def soften(model: Path) -> None:
    edit(model / "config.json", final_logit_softcapping=None)


def rescale(model: Path) -> None:
    edit(model / "config.json", query_pre_attn_scalar=8)


def lower(model: Path) -> None:
    edit(model / "tokenizer.json", normalizer={"type": "Lowercase"})


def split(model: Path) -> None:
    edit(model / "tokenizer.json", pre_tokenizer={"type": "Metaspace", "replacement": "_", "prepend_scheme": "never"})


def chat(model: Path) -> None:
    edit(model / "tokenizer_config.json", chat_template="{{ messages }}")


EDITS: list[tuple[Callable[[Path], None], str]] = [
    (soften, r"config\.final_logit_softcapping: 30\.0 -> null"),
    (rescale, r"config\.query_pre_attn_scalar: 32 -> 8"),
    (lower, "tokenizer's definition: .*\n.*probe text: "),
    (split, "tokenizer's definition: .*\n.*probe text: "),
    (chat, "chat_template: "),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, toy_config: HarvestConfig) -> tuple[Path, HarvestConfig]:
    """A cache of a copy of the toy model, in the same folder as the copy, and its config."""
    folder = tmp_path_factory.mktemp("made")
    model = {**toy_config.model.to_dict(), "model": str(shutil.copytree(MODEL_DIR, folder / "model"))}
    config = changed(toy_config, model=model, num_tokens=5000, heldout_tokens=512)
    harvest(config, folder / "cache")
    return folder, config


@pytest.mark.parametrize(("change", "named"), EDITS, ids=lambda value: getattr(value, "__name__", ""))
def test_another_config_or_tokenizer_is_refused(
    made: tuple[Path, HarvestConfig], tmp_path: Path, change: Callable[[Path], None], named: str
) -> None:
    folder, config = made
    whole = contents(folder / "cache")
    shutil.copytree(folder / "model", tmp_path / "as it was")
    change(folder / "model")
    try:
        with pytest.raises(ConfigError, match=named):
            harvest(changed(config, num_tokens=8000), folder / "cache")
        with pytest.raises(ConfigError, match=f"is not the model that made(.|\n)*{named}"):
            load_model_of(Cache.open(folder / "cache"), ModelSettings(device="cpu"))
    finally:
        shutil.rmtree(folder / "model")
        shutil.copytree(tmp_path / "as it was", folder / "model")
    assert contents(folder / "cache") == whole


def test_the_same_model_in_another_dtype_is_accepted(made: tuple[Path, HarvestConfig]) -> None:
    folder, _ = made
    messages: list[str] = []
    cache = Cache.open(folder / "cache")
    load_model_of(cache, ModelSettings.parse({"device": "cpu", "dtype": "bfloat16"}), messages.append)
    assert messages == []


def test_a_cache_made_before_the_check_is_extended_and_that_is_said(
    made: tuple[Path, HarvestConfig], tmp_path: Path
) -> None:
    folder, config = made
    old = shutil.copytree(folder / "cache", tmp_path / "cache")
    group = json.loads((old / "zarr.json").read_text())
    for key in ("config", "definition", "chat_template", "probe"):
        del group["attributes"]["saepipe"]["model"][key]
    replace_file(old, "zarr.json", json.dumps(group).encode())
    reseal(old, lambda lines: [line.pop("text", None) for line in lines])
    progress = Silent()
    harvest(changed(config, num_tokens=5100), old, progress=progress)
    assert sum("before chat_template, config, definition, probe were recorded" in text for text in progress.said) == 1


def compared(current: dict[str, Any], *, upgraded: bool = False, **options: Any) -> Comparison:
    return compare(STORED, STORED | current, (VERSIONS, UPGRADED if upgraded else VERSIONS), **options)


def test_equal_models_have_no_difference() -> None:
    assert compared({}) == Comparison((), ())
    assert compared({}, upgraded=True).accepted == ("transformers 5.1 -> 5.2; the model and the tokenizer do the same",)


@pytest.mark.parametrize(
    "current",
    [
        {"config": {"softcap": 30.0, "rope": {"theta": 1e4}, "layers": ["a", "b"], "new": 1}},
        {"config": {"softcap": 30.0, "layers": ["a", "b"]}},
        {"definition": "written otherwise"},
    ],
    ids=["a new key", "a key less", "serialised otherwise"],
)
def test_what_an_upgrade_explains_is_accepted_only_after_one(current: dict[str, Any]) -> None:
    assert compared(current).changed
    upgraded = compared(current, upgraded=True)
    assert not upgraded.changed
    assert len(upgraded.accepted) == 2


@pytest.mark.parametrize(
    "current",
    [
        {"config": {"softcap": None, "rope": {"theta": 1e4}, "layers": ["a", "b"]}},
        {"config": {"softcap": 30.0, "rope": {"theta": 1e4}, "layers": ["a"]}},
        {"definition": "another", "probe": "other ids"},
        {"tokenizer": "another vocabulary", "definition": "another"},
        {"weights": "others"},
    ],
)
def test_what_no_upgrade_explains_is_refused(current: dict[str, Any]) -> None:
    assert compared(current, upgraded=True).changed


def test_keys_may_be_left_out() -> None:
    assert not compared({"weights": "others"}, leave_out=("weights",)).changed
