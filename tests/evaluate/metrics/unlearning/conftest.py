"""The toy model, which knows how words begin; what is to be forgotten is which words begin with C."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from saepipe.data.toy import ASKED_WORDS
from saepipe.evaluate.metrics.unlearning.metric import Unlearning
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.model.kept_work import Artifacts
from saepipe.evaluate.model.testbed import Testbed
from saepipe.harvest.capture import capture
from saepipe.harvest.hooks import HookPoint
from saepipe.harvest.model import LanguageModel, ModelConfig, load_model

HOOK = "blocks.1.hook_resid_post"
PROMPT = "\n {question} has the first letter:"
WORDS = {letter: [word for word in ASKED_WORDS if word.startswith(letter)] for letter in "abcd"}


@dataclass(frozen=True)
class Latents:
    """Directions at the hook for latents made by hand, each (d_in,) of unit norm, and where they begin to fire."""

    c_word: torch.Tensor
    c_word_bias: float
    """relu(x . c_word + bias) fires on words that begin with C and on hardly anything else"""
    c_letter: torch.Tensor
    c_letter_bias: float
    """the same for the token " C", which no question holds"""


@pytest.fixture(scope="session")
def lm() -> LanguageModel:
    return load_model(ModelConfig(model="toy", dtype="float32", device="cpu"))


@pytest.fixture
def testbed_at(lm: LanguageModel):
    """A testbed with its artifacts in a folder."""

    def make(folder: Path, mode: Mode = "fixed", batch_size: int = 8) -> Testbed:
        cache: Any = SimpleNamespace(path=Path("cache"))
        artifacts = Artifacts(folder, {"model": "toy", "hook": HOOK})
        return Testbed(cache, HOOK, lambda: lm, artifacts, batch_size, torch.device("cpu"), mode)

    return make


@pytest.fixture
def testbed(testbed_at, tmp_path: Path) -> Testbed:
    return testbed_at(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """forget.jsonl: text on words with C; retain.jsonl: on others; c.csv and abd.jsonl: questions about each."""
    folder = tmp_path_factory.mktemp("unlearning")
    texts = {
        "forget": text_on(WORDS["c"][:60]),
        "retain": text_on([word for letter in "abd" for word in WORDS[letter][:40]]),
    }
    for name, documents in texts.items():
        lines = [json.dumps({"text": document}) for document in [*documents, "too short to count"]]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    with (folder / "c.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["word", "one", "two", "three", "four", "right"])
        rows.writerows([word, *"ABCD", "C"] for word in WORDS["c"][60:80])
    asked = [(word, letter) for letter in "abd" for word in WORDS[letter][40:48]]
    rows = [{"question": word, "choices": [*"ABCD"], "answer": "abcd".index(letter)} for word, letter in asked]
    (folder / "abd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def text_on(words: list[str], words_each: int = 4) -> list[str]:
    """Documents that say how some words begin."""
    lines = [f"{PROMPT.format(question=word)} {word[0].upper()}" for word in words]
    return ["".join(lines[start : start + words_each]) for start in range(0, len(lines), words_each)]


@pytest.fixture
def metric(files: Path):
    """Unlearning words with C, with other settings where they are given."""

    def make(**settings: Any) -> Unlearning:
        columns = {"question": "word", "choices": ["one", "two", "three", "four"], "answer": "right"}
        plain = {
            "forget": {"source": str(files / "forget.jsonl")},
            "retain": {"source": str(files / "retain.jsonl")},
            "forget_questions": {"source": str(files / "c.csv"), "subject": "words with C", **columns},
            "retain_questions": [{"source": str(files / "abd.jsonl"), "subject": "other words"}],
            "prompt": PROMPT,
            "permutations": 1,
            "num_latents": [1, 2],
            "multipliers": [5, 20],
            "num_windows": 40,
            "context_size": 24,
        }
        return Unlearning.parse(plain | settings)

    return make


@pytest.fixture(scope="session")
def latents(lm: LanguageModel) -> Latents:
    """By logistic regression on every token of text on all the words."""
    texts = text_on([word for words in WORDS.values() for word in words[:60]])
    rows = [[lm.bos_id, *lm.tokenizer.encode(text, add_special_tokens=False)] for text in texts]
    x = torch.cat([capture(lm.model, torch.tensor([ids]), [HookPoint.parse(HOOK)])[HOOK][0, 1:] for ids in rows])
    tokens = [lm.tokenizer.convert_ids_to_tokens(token) for ids in rows for token in ids[1:]]
    names = {f"Ġ{word}" for word in WORDS["c"]}
    word = fitted(x, np.array([token in names for token in tokens]))
    return Latents(*word, *fitted(x, np.array([token == "ĠC" for token in tokens])))


def fitted(x: torch.Tensor, is_it: np.ndarray) -> tuple[torch.Tensor, float]:
    """A unit direction and a bias that tell (num_tokens, d_in) apart."""
    found = LogisticRegression(max_iter=1000, C=10).fit(x.numpy(), is_it)
    assert (found.predict(x.numpy()) == is_it).all()
    direction = torch.tensor(found.coef_[0], dtype=torch.float32)
    return direction / direction.norm(), float(found.intercept_[0] / direction.norm())
