"""The loss with each opening, against a computation of its own; what is measured, and what is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from helpers.interrupted_harvests import changed
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.terminal.progress import Silent
from saepipe.harvest import openings as openings_module
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import describe
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.openings import opening_sentence
from saepipe.harvest.plan import plan
from saepipe.harvest.run import harvest

SIZE, SHARE = 24, 0.5
TEXTS = [f"The {word} goes to the town, and {word}s are seen there." for word in ("cat", "dog", "bird", "man", "cow")]
TEXTS = [f"{text} It is number {i}." for i in range(40) for text in TEXTS]
HELDOUT = [text for text in TEXTS if heldout_score(text) < SHARE]


@pytest.fixture(scope="module")
def lm(toy_config: HarvestConfig) -> LanguageModel:
    return load_model(toy_config.model)


@pytest.fixture(scope="module")
def base(toy_config: HarvestConfig, tmp_path_factory: pytest.TempPathFactory) -> HarvestConfig:
    """A text of known documents, of which four windows are measured."""
    path = tmp_path_factory.mktemp("text") / "texts.json"
    path.write_text(json.dumps(TEXTS))
    sizes = {"num_tokens": 1000, "heldout_tokens": 48, "context_size": SIZE, "heldout_share": SHARE}
    return changed(toy_config, dataset={"source": str(path)}, hooks=["blocks.0.hook_resid_post"], **sizes)


def text_of(lm: LanguageModel, window: int, bos: str) -> list[list[int]]:
    """Returns the ids of a held-out window by document, as many as fit with BOS."""
    documents = lm.tokenizer(HELDOUT, add_special_tokens=False)["input_ids"]
    stream = [(number, token) for number, ids in enumerate(documents) for token in ids]
    part = stream[window * SIZE : (window + 1) * SIZE]
    numbers = sorted({number for number, _ in part})
    part = part[: SIZE - (1 if bos == "windows" else len(numbers))]
    return [[token for owner, token in part if owner == number] for number in numbers]


@torch.no_grad()
def losses(lm: LanguageModel, token: int | None, bos: str) -> list[np.ndarray]:
    """Returns the losses of each of the four windows, by one pass per token."""
    values = []
    for window in range(4):
        parts = [part for part in text_of(lm, window, bos) if part]
        ids: list[int] = []
        for number, part in enumerate(parts):
            ids += [token] if token is not None and (number == 0 or bos != "windows") else []
            ids += part
        first = 0 if token is None else 1
        scored = [place for place in range(first + 1, len(ids)) if ids[place] not in lm.special_ids]
        logits = [lm.model(input_ids=torch.tensor([ids[:place]])).logits[0, -1].double() for place in scored]
        values.append(np.array([-float(row.log_softmax(0)[ids[p]]) for row, p in zip(logits, scored, strict=True)]))
    return values


@pytest.fixture(autouse=True)
def few_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings_module, "_NUM_TOKENS", 4 * SIZE)


@pytest.mark.parametrize("bos", ["documents", "windows", "none"])
def test_losses_are_those_of_the_model(lm: LanguageModel, base: HarvestConfig, bos: str) -> None:
    openings = describe(changed(base, bos=bos), lm)["openings"]
    assert (openings["split"], openings["num_windows"], openings["window_size"]) == ("heldout", 4, SIZE)
    by_token = {line["token"]: line for line in openings["losses"]}
    assert list(by_token) == ([None, "<bos>", "<eos>"] if bos == "none" else ["<bos>", "<eos>", None])
    own = losses(lm, None if bos == "none" else 2, bos)
    assert openings["num_tokens"] == sum(map(len, own))
    for token, token_id in {"<bos>": 2, "<eos>": 1, None: None}.items():
        expected = losses(lm, token_id, bos)
        gaps = [mine - theirs for mine, theirs in zip(expected, own, strict=True)]
        line = by_token[token]
        assert line["ce"] == pytest.approx(np.concatenate(expected).mean(), abs=2e-4)
        assert line["difference"] == pytest.approx(np.concatenate(gaps).mean(), abs=2e-4)
        assert line["standard_error"] == pytest.approx(np.std([gap.mean() for gap in gaps], ddof=1) / 2, abs=2e-4)


def test_training_text_is_measured_where_none_is_held_out(lm: LanguageModel, base: HarvestConfig) -> None:
    openings = describe(changed(base, heldout_share=0), lm)["openings"]
    assert openings["split"] == "train"
    assert "training tokens in windows of 24" in (opening_sentence(openings) or "")


def test_a_single_window_has_no_error(lm: LanguageModel, base: HarvestConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openings_module, "_NUM_TOKENS", SIZE)
    openings = describe(base, lm)["openings"]
    assert openings["num_windows"] == 1
    assert {line["standard_error"] for line in openings["losses"]} == {None}
    assert "±" not in (opening_sentence(openings) or "")


def test_a_text_too_short_to_measure_is_harvested_all_the_same(
    lm: LanguageModel, base: HarvestConfig, tmp_path: Path
) -> None:
    (tmp_path / "short.txt").write_text("\n\n".join(["a b c d e f"] * 4))
    config = changed(base, dataset={"source": str(tmp_path / "short.txt")}, context_size=27, heldout_share=0)
    assert describe(config, lm)["openings"] is None
    assert opening_sentence(None) is None


def test_a_loss_that_is_not_finite_is_said(toy_config: HarvestConfig, base: HarvestConfig) -> None:
    broken = load_model(toy_config.model)
    broken.model.base_model.norm.weight.fill_(torch.nan)
    openings = describe(base, broken)["openings"]
    assert {line["ce"] for line in openings["losses"]} == {None}
    assert "the model's loss is not finite on" in (opening_sentence(openings) or "")


def test_the_harvest_says_and_stores_it_and_so_does_the_plan(base: HarvestConfig, tmp_path: Path) -> None:
    progress = Silent()
    cache = harvest(base, tmp_path / "cache", progress=progress)
    sentence = opening_sentence(cache.attributes["openings"])
    assert progress.said[0] == sentence
    assert (sentence or "").startswith("with <bos> as BOS the model's loss is ")
    assert plan(base, tmp_path / "other").page()["opening"] == sentence
    again = Silent()
    harvest(changed(base, num_tokens=1100), tmp_path / "cache", progress=again)
    assert sentence not in again.said
