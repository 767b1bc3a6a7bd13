"""Model-only inputs of absorption: words, the activation at each word in its prompt, and a probe per letter.

They are made once, stored, and shared by all SAEs. Once they are stored, the model is not loaded.
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
from saepipe.evaluate.metrics.absorption.prompts import NotMeasurable, sample_examples, single_tokens, word_activations
from saepipe.evaluate.metrics.absorption.vocabulary import LETTERS, Word, lookup, sample_words, split_words, vocabulary
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed

_VALIDATION_SHARE = 0.2
"""Share of the train words that choose the probes' decay."""
_VERSION = 1
"""Version of the stored content."""


@dataclass(frozen=True)
class Material:
    """Words with the model's activations at them, and the letter probes."""

    train: list[Word]
    test: list[Word]
    x_train: Tensor
    """(num_train, d_in) in the model's dtype"""
    x_test: Tensor
    """(num_test, d_in)"""
    x_scored: Tensor
    """(num_test, d_in): activations scored for absorption: x_test, or those at SAEBench's second prompts"""
    written_test: Tensor
    """(num_test, d_out): what latents write, where the probe reads the letter; x_test, but for transcoders"""
    written_scored: Tensor
    """(num_test, d_out): likewise those of x_scored"""
    probe: Probe
    f1: np.ndarray
    """(26,) float64: F1 of the probe on test words"""

    @property
    def present(self) -> np.ndarray:
        """(26,) bool: whether both a train word and a test word begin with the letter."""
        return np.asarray((labels(self.train).any(0) & labels(self.test).any(0)).numpy())

    @property
    def true_positives(self) -> Tensor:
        """(num_test, 26) bool: true positives of the probe."""
        return (self.probe.logits(self.written_test) > 0) & labels(self.test)


@dataclass(frozen=True)
class MaterialSettings:
    """Settings that determine the material."""

    words: Path | None
    max_words: int | None
    template: str
    test_share: float
    seed: int

    def word_list(self, testbed: Testbed) -> Sequence[str] | None:
        """Returns the words to ask for, or None for the whole vocabulary.

        The embedded model has learned the spelling of one list of words, and of no other tokens.
        """
        if self.words is None:
            return WORDS if testbed.cache.attributes["model"]["id"] == "toy" else None
        try:
            return self.words.read_text("utf-8").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"absorption.words: cannot read {self.words}", hint="give a text file with one word per line"
            ) from error

    def works(self, testbed: Testbed) -> tuple[Work, Work]:
        """Returns the work for the words with their activations, and the work for the probe."""
        texts = self.word_list(testbed)
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
    """Returns the first letter of each word, one-hot (num_words, 26) bool."""
    return probes.letter_labels([word.letter for word in words], LETTERS)


def load_material(testbed: Testbed, settings: MaterialSettings, progress: Progress) -> Material:
    """Returns the stored material; makes and stores it first if necessary.

    Raises:
        ConfigError: if too few words of a list that was given are single tokens.
        NotMeasurable: if the vocabulary does not have enough words, or the tokenizer does not tell them apart.
    """
    words_work, probe_work = settings.works(testbed)
    stored = testbed.kept_work.get(words_work.kind, words_work.key, lambda: _run_model(testbed, settings, progress))
    train, test = (
        [Word(*pair) for pair in zip(stored.info[part], stored.tensors[f"tokens_{part}"].tolist(), strict=True)]
        for part in ("train", "test")
    )
    x_train, written_train = testbed.split(stored.tensors["x_train"])
    x_test, written_test = testbed.split(stored.tensors["x_test"])
    x_scored, written_scored = testbed.split(stored.tensors.get("x_scored", stored.tensors["x_test"]))

    def fit() -> Content:
        if testbed.mode == "reference":
            probe, info = probes.fit_as_reference(written_train, labels(train), settings.seed), {}
        else:
            fitted, validation = _validation_split(train, settings.seed)
            y_train = labels(train)
            probe, decay = probes.fit(
                written_train[fitted], y_train[fitted], written_train[validation], y_train[validation]
            )
            info = {"decay": decay}
        f1 = probes.letter_f1(probe.logits(written_test), labels(test))
        return Content({"weight": probe.weight, "bias": probe.bias, "f1": torch.from_numpy(f1)}, info)

    probe_tensors = testbed.kept_work.get(probe_work.kind, probe_work.key, fit).tensors
    return Material(
        train=train,
        test=test,
        x_train=x_train,
        x_test=x_test,
        x_scored=x_scored,
        written_test=written_test,
        written_scored=written_scored,
        probe=Probe(probe_tensors["weight"], probe_tensors["bias"]),
        f1=probe_tensors["f1"].numpy(),
    )


def _validation_split(train: Sequence[Word], seed: int) -> tuple[list[int], list[int]]:
    """Returns the indices of the train words to fit on, and of those that choose the decay."""
    _, validation = split_words(train, _VALIDATION_SHARE, seed, by_stem=True)
    tokens = {word.token for word in validation}
    index = range(len(train))
    return [i for i in index if train[i].token not in tokens], [i for i in index if train[i].token in tokens]


def _run_model(testbed: Testbed, settings: MaterialSettings, progress: Progress) -> Content:
    """Returns train and test words with the activations at them.

    SAEBench asks for each test word a second time, with examples from all words, and scores absorption there, at other
    activations than those where the probe detected the letter. Mode fixed scores where the letter was detected.
    """
    reference = testbed.mode == "reference"
    train, test = _sample_and_split(testbed, settings)
    parts = {"train": (train, train), "test": (test, test)} | ({"scored": (test, train + test)} if reference else {})
    tensors: dict[str, Tensor] = {}
    info: dict[str, list[Any]] = {"train": [word.text for word in train], "test": [word.text for word in test]}
    for part, (words, pool) in parts.items():
        examples = sample_examples(words, pool, f"{settings.seed}/{part}", allow_forms=reference)
        tensors[f"x_{part}"] = word_activations(testbed, words, examples, settings.template, progress)
        info[f"examples_{part}"] = [[word.text for word in sampled] for sampled in examples]
        tensors[f"tokens_{part}"] = torch.tensor([word.token for word in words])
    return Content(tensors, info)


def _sample_and_split(testbed: Testbed, settings: MaterialSettings) -> tuple[list[Word], list[Word]]:
    lm = testbed.language_model
    words = vocabulary(lm.tokenizer)
    if (texts := settings.word_list(testbed)) is not None:
        words = lookup(texts, words)
    words = single_tokens(words, lm.tokenizer, lm.bos_id, settings.template)
    words = sample_words(words, settings.max_words, settings.seed)
    train, test = split_words(words, settings.test_share, settings.seed, by_stem=testbed.mode == "fixed")
    if min(len(train), len(test)) < 2:
        if settings.words is None:
            message = f"too few words of Latin letters are single tokens of {lm.config.model}"
            raise NotMeasurable(f"{message}: {len(words)} (train: {len(train)}, test: {len(test)})")
        raise ConfigError(
            f"{len(words)} words are single tokens of {lm.config.model} (train: {len(train)}, test: {len(test)})",
            hint="give more words in absorption.words",
        )
    return train, test
