"""What absorption needs of the model alone: words, the activation at each in its prompt, and a probe for each letter.

Made once, stored, and shared by every SAE. Where it is stored, the model is not loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saepipe.data.config.base import fingerprint
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Progress
from saepipe.data.toy import WORDS
from saepipe.evaluate.metrics.absorption import letter_probes as probes
from saepipe.evaluate.metrics.absorption.letter_probes import Probe
from saepipe.evaluate.metrics.absorption.prompts import draw_examples, single_tokens, word_activations
from saepipe.evaluate.metrics.absorption.vocabulary import LETTERS, Word, drawn, listed, parted, vocabulary
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed

_VALIDATION_SHARE = 0.2
"""Of the train words; they choose the probes' decay."""
_VERSION = 1
"""Of what is stored."""


@dataclass(frozen=True)
class Material:
    """Words and what the model makes of them."""

    train: list[Word]
    test: list[Word]
    x_train: Tensor
    """(num_train, d_in) in the model's dtype"""
    x_test: Tensor
    """(num_test, d_in)"""
    x_scored: Tensor
    """(num_test, d_in): where absorption is looked for. x_test, or of SAEBench's second prompts for these words."""
    probe: Probe
    f1: np.ndarray
    """(26,) float64: of the probe on test words"""

    @property
    def present(self) -> np.ndarray:
        """(26,) bool: letters that some train word and some test word begin with."""
        return np.asarray((labels(self.train).any(0) & labels(self.test).any(0)).numpy())

    @property
    def detected(self) -> Tensor:
        """(num_test, 26) bool: true positives of the probe."""
        return (self.probe.logits(self.x_test) > 0) & labels(self.test)


@dataclass(frozen=True)
class Recipe:
    """Settings that decide the material."""

    words: Path | None
    max_words: int | None
    template: str
    test_share: float
    seed: int

    def listed(self, testbed: Testbed) -> Sequence[str] | None:
        """The words that are asked for, where not the whole vocabulary is.

        The embedded model has learned the spelling of one list of words, and of no other token.
        """
        if self.words is None:
            return WORDS if testbed.cache.attributes["model"]["id"] == "toy" else None
        try:
            return self.words.read_text("utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"absorption.words: cannot read {self.words}", hint="a file with a word a line"
            ) from error

    def works(self, testbed: Testbed) -> tuple[Work, Work]:
        """Words with activations, and the probe."""
        texts = self.listed(testbed)
        key = {
            "words": None if texts is None else fingerprint({"words": list(texts)}),
            "max_words": self.max_words,
            "template": self.template,
            "test_share": self.test_share,
            "seed": self.seed,
            "mode": testbed.mode,
            "version": _VERSION,
        }
        return Work("first_letter_words", key), Work("first_letter_probe", key)


def labels(words: Sequence[Word]) -> Tensor:
    """(num_words, 26) bool: which letter each begins with."""
    return probes.letter_labels([word.letter for word in words], LETTERS)


def material(testbed: Testbed, recipe: Recipe, progress: Progress) -> Material:
    """The stored material, made where it is not there yet.

    Raises:
        ConfigError: if the tokenizer has too few of the words.
    """
    words_work, probe_work = recipe.works(testbed)
    found = testbed.artifacts.get(words_work.kind, words_work.key, lambda: _run_model(testbed, recipe, progress))
    train, test = (
        [
            Word(text, token)
            for text, token in zip(found.info[part], found.tensors[f"tokens_{part}"].tolist(), strict=True)
        ]
        for part in ("train", "test")
    )
    x_train, x_test = found.tensors["x_train"], found.tensors["x_test"]

    def fit() -> Content:
        if testbed.mode == "reference":
            probe, info = probes.fit_as_reference(x_train, labels(train), recipe.seed), {}
        else:
            known, unseen = _validation(train, recipe.seed)
            probe, decay = probes.fit(x_train[known], labels(train)[known], x_train[unseen], labels(train)[unseen])
            info = {"decay": decay}
        f1 = probes.letter_f1(probe.logits(x_test), labels(test))
        return Content({"weight": probe.weight, "bias": probe.bias, "f1": torch.from_numpy(f1)}, info)

    fitted = testbed.artifacts.get(probe_work.kind, probe_work.key, fit).tensors
    return Material(
        train=train,
        test=test,
        x_train=x_train,
        x_test=x_test,
        x_scored=found.tensors.get("x_scored", x_test),
        probe=Probe(fitted["weight"], fitted["bias"]),
        f1=fitted["f1"].numpy(),
    )


def _validation(train: Sequence[Word], seed: int) -> tuple[list[int], list[int]]:
    """Indices of the train words to fit on, and of those that choose the decay."""
    _, unseen = parted(train, _VALIDATION_SHARE, seed, by_stem=True)
    tokens = {word.token for word in unseen}
    index = range(len(train))
    return [i for i in index if train[i].token not in tokens], [i for i in index if train[i].token in tokens]


def _run_model(testbed: Testbed, recipe: Recipe, progress: Progress) -> Content:
    """The words, parted, with the activations at them.

    SAEBench asks for each test word a second time, with examples from all words, and looks for absorption there: at
    another activation than the one whose letter the probe has found. We look where it was found.
    """
    reference = testbed.mode == "reference"
    train, test = _words(testbed, recipe)
    asked = {"train": (train, train), "test": (test, test)} | ({"scored": (test, train + test)} if reference else {})
    tensors: dict[str, Tensor] = {}
    info: dict[str, list[Any]] = {"train": [word.text for word in train], "test": [word.text for word in test]}
    for part, (words, among) in asked.items():
        examples = draw_examples(words, among, f"{recipe.seed}/{part}", forms=reference)
        tensors[f"x_{part}"] = word_activations(testbed, words, examples, recipe.template, progress)
        info[f"examples_{part}"] = [[word.text for word in others] for others in examples]
        tensors[f"tokens_{part}"] = torch.tensor([word.token for word in words])
    return Content(tensors, info)


def _words(testbed: Testbed, recipe: Recipe) -> tuple[list[Word], list[Word]]:
    lm = testbed.language_model
    words = vocabulary(lm.tokenizer)
    if (texts := recipe.listed(testbed)) is not None:
        words = listed(texts, words)
    words = drawn(single_tokens(words, lm.tokenizer, lm.bos_id, recipe.template), recipe.max_words, recipe.seed)
    train, test = parted(words, recipe.test_share, recipe.seed, by_stem=testbed.mode == "fixed")
    if min(len(train), len(test)) < 2:
        raise ConfigError(
            f"{len(words)} words are one token of {lm.config.model}: {len(train)} to fit on, {len(test)} to test on",
            hint="more words at absorption.words",
        )
    return train, test
