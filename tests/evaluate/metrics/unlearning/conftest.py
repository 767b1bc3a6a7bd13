"""The toy model, which knows how words begin, and texts and questions to make it forget which begin with C."""

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
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.testbed import Testbed
from saepipe.harvest.capture import capture
from saepipe.harvest.hook_point import HookPoint
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.model_config import ModelConfig

HOOK = "blocks.1.hook_resid_post"
PROMPT = "\n {question} has the first letter:"
WORDS = {letter: [word for word in ASKED_WORDS if word.startswith(letter)] for letter in "abcd"}


@dataclass(frozen=True)
class Latents:
    """Directions at the hook for latents made by hand, each (d_in,) of unit norm, with their encoder biases."""

    c_word: torch.Tensor
    c_word_bias: float
    """relu(x . c_word + bias) is active on words that begin with C and on hardly anything else"""
    c_letter: torch.Tensor
    c_letter_bias: float
    """the same for the token " C", which is in no question"""


@pytest.fixture(scope="session")
def lm() -> LanguageModel:
    return load_model(ModelConfig(model="toy", dtype="float32", device="cpu"))


@pytest.fixture
def testbed_at(lm: LanguageModel):
    """Makes testbeds that keep their work in a folder."""

    def make(folder: Path, mode: Mode = "fixed", batch_size: int = 8) -> Testbed:
        cache: Any = SimpleNamespace(path=Path("cache"))
        kept_work = KeptWork(folder, {"model": "toy", "hook": HOOK})
        return Testbed(cache, HOOK, lambda: lm, kept_work, batch_size, torch.device("cpu"), mode)

    return make


@pytest.fixture
def testbed(testbed_at, tmp_path: Path) -> Testbed:
    return testbed_at(tmp_path / "artifacts")


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text on words with C (forget.jsonl), on others (retain.jsonl), and questions (c.csv, abd.jsonl)."""
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
    pairs = [(word, letter) for letter in "abd" for word in WORDS[letter][40:48]]
    rows = [{"question": word, "choices": [*"ABCD"], "answer": "abcd".index(letter)} for word, letter in pairs]
    (folder / "abd.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def text_on(words: list[str], words_each: int = 4) -> list[str]:
    """Returns documents that say how some words begin."""
    lines = [f"{PROMPT.format(question=word)} {word[0].upper()}" for word in words]
    return ["".join(lines[start : start + words_each]) for start in range(0, len(lines), words_each)]


@pytest.fixture
def metric(files: Path):
    """Makes the metric that unlearns words with C, with defaults for small runs."""

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
    """Directions by logistic regression on every token of text on all the words."""
    texts = text_on([word for words in WORDS.values() for word in words[:60]])
    rows = [[lm.bos_id, *lm.tokenizer.encode(text, add_special_tokens=False)] for text in texts]
    x = torch.cat([capture(lm.model, torch.tensor([ids]), [HookPoint.parse(HOOK)])[HOOK][0, 1:] for ids in rows])
    tokens = [lm.tokenizer.convert_ids_to_tokens(token) for ids in rows for token in ids[1:]]
    names = {f"Ġ{word}" for word in WORDS["c"]}
    word = fit_direction(x, np.array([token in names for token in tokens]))
    return Latents(*word, *fit_direction(x, np.array([token == "ĠC" for token in tokens])))


def fit_direction(x: torch.Tensor, positive: np.ndarray) -> tuple[torch.Tensor, float]:
    """Returns a unit direction and a bias that separate the positive rows of x (num_tokens, d_in) from the others."""
    model = LogisticRegression(max_iter=1000, C=10).fit(x.numpy(), positive)
    assert (model.predict(x.numpy()) == positive).all()
    direction = torch.tensor(model.coef_[0], dtype=torch.float32)
    return direction / direction.norm(), float(model.intercept_[0] / direction.norm())
