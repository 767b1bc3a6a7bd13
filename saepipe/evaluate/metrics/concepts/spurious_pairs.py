"""Texts of SCR: pairs of classes and an attribute that has nothing to do with them (SAEBench 0.6.0).

Texts of two classes with either of two attributes make three questions: the concept (which class?) and the attribute,
on balanced texts, and a spurious one, on texts whose attribute goes with their class, so that a probe may use either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, model_validator

from saepipe.data.config.base import Config
from saepipe.data.errors import ConfigError
from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.binary_questions import BinaryExamples
from saepipe.evaluate.texts.config import LabelledDatasetConfig, Part
from saepipe.evaluate.texts.known_datasets import KNOWN_DATASETS
from saepipe.evaluate.texts.labelled_rows import read_labelled_rows
from saepipe.evaluate.texts.sample import Sampling
from saepipe.evaluate.texts.stored import texts_work

CONCEPT, ATTRIBUTE, SPURIOUS = range(3)
"""The questions, in this order everywhere."""

_VERSION = 1
"""Increased when equal settings would sample other texts than those stored."""

_PARTS: tuple[Part, Part] = ("train", "test")
_MIN_QUARTER = 5
"""Texts per quarter that a pair needs in each part."""


class SpuriousPairsConfig(Config):
    """Pairs of classes of one dataset, and two values of its attribute; the positive ones first."""

    data: LabelledDatasetConfig
    pairs: tuple[tuple[str, str], ...] = Field(min_length=1)
    attributes: tuple[str, str]
    names: Mapping[str, str] = {}
    """Names of classes in results, if they differ from the labels."""

    @model_validator(mode="after")
    def _check_attribute(self) -> SpuriousPairsConfig:
        if self.data.attribute is None:
            raise ValueError(f"{self.data.name} has no attribute column")
        return self

    def title(self, pair: tuple[str, str]) -> str:
        """Returns the reference's name for the results of a pair."""
        positive, negative = (self.names.get(label, label) for label in pair)
        return f"{self.data.name}_scr_{positive}_{negative}"


@dataclass(frozen=True)
class PairTexts:
    """Texts of one pair, per part: 2 q of (+ class, + attribute), q of (-, +), q of (+, -), 2 q of (-, -)."""

    title: str
    train: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        return [*self.train, *self.test]

    def examples(self, part: Part, generator: torch.Generator) -> tuple[BinaryExamples, BinaryExamples, BinaryExamples]:
        """Returns examples of the concept, the attribute and the spurious question: 4 q each, half of them positive."""
        q = len(self.train if part == "train" else self.test) // 6
        both, attribute_only, class_only, neither = (
            torch.arange(first * q, last * q) for first, last in ((0, 2), (2, 3), (3, 4), (4, 6))
        )

        def question(*kinds: torch.Tensor) -> BinaryExamples:
            return BinaryExamples.balanced(torch.cat(kinds[:2]), torch.cat(kinds[2:]), generator)

        return (
            question(both[:q], class_only, attribute_only, neither[:q]),
            question(both[:q], attribute_only, class_only, neither[:q]),
            question(both[:q], both[q:], neither[:q], neither[q:]),
        )


def pair_texts_work(config: SpuriousPairsConfig, sampling: Sampling) -> Work:
    """Returns the work that decides the texts. Raises like `texts.stored.texts_work`."""
    titles = {config.title(pair): list(pair) for pair in config.pairs}
    key = texts_work(config.data, sampling).key
    return Work("scr_texts", {**key, "pairs": titles, "attributes": list(config.attributes), "pairs_version": _VERSION})


def pair_texts(testbed: Testbed, config: SpuriousPairsConfig, sampling: Sampling, work: Work) -> list[PairTexts]:
    """Returns the texts of each pair, sampled once and stored; `work` is that of `pair_texts_work`."""

    def make() -> Content:
        pairs = sample_pairs(config, sampling, work.key["origin"].get("revision"))
        return Content({}, {"pairs": [[pair.title, pair.train, pair.test] for pair in pairs]})

    plain = testbed.kept_work.get(work.kind, work.key, make).info["pairs"]
    return [PairTexts(title, tuple(train), tuple(test)) for title, train, test in plain]


def sample_pairs(config: SpuriousPairsConfig, sampling: Sampling, revision: str | None = None) -> list[PairTexts]:
    """Samples the texts of each pair.

    reference: the first rows of each kind, in the dataset's order. fixed: rows sampled with the seed, no text twice,
    and fewer texts than asked for if the dataset has fewer.

    Raises:
        ConfigError: if a pair has too few rows with either attribute.
    """
    used_texts: set[str] = set()
    by_part: dict[Part, _TextsByKind] = {
        part: _texts_by_kind(config, part, sampling, revision, used_texts) for part in _PARTS
    }
    pairs = []
    for pair in config.pairs:
        train, test = (_select_texts(config, pair, by_part[part], sampling, part) for part in _PARTS)
        pairs.append(PairTexts(config.title(pair), train, test))
    return pairs


_TextsByKind = dict[tuple[str, str | None], list[str]]
"""By class and attribute."""


def _texts_by_kind(
    config: SpuriousPairsConfig, part: Part, sampling: Sampling, revision: str | None, used_texts: set[str]
) -> _TextsByKind:
    """Returns the texts of a part in the order in which they are taken; updates `used_texts`."""
    labels = {label for pair in config.pairs for label in pair}
    by_kind: _TextsByKind = defaultdict(list)
    for row in read_labelled_rows(config.data, part, revision):
        if row.label in labels and (sampling.mode == "reference" or row.text not in used_texts):
            used_texts.add(row.text)
            by_kind[row.label, row.attribute].append(row.text)
    if sampling.mode == "fixed":
        for number, kind in enumerate(sorted(by_kind, key=str)):
            np.random.default_rng([sampling.seed, _PARTS.index(part), number]).shuffle(by_kind[kind])
    return by_kind


def _select_texts(
    config: SpuriousPairsConfig, pair: tuple[str, str], by_kind: _TextsByKind, sampling: Sampling, part: Part
) -> tuple[str, ...]:
    """Returns 2 q, q, q and 2 q texts; see `PairTexts`."""
    kinds = [by_kind.get((label, attribute), []) for attribute in config.attributes for label in pair]
    shares = (2, 1, 1, 2)
    full = sampling.texts_per_class(part) // 2
    q = min(full, *(len(kind) // share for kind, share in zip(kinds, shares, strict=True)))
    if q < (full if sampling.mode == "reference" else _MIN_QUARTER):
        counts = ", ".join(str(len(kind)) for kind in kinds)
        raise ConfigError(
            f"{config.title(pair)}: too few texts to {part} on: {counts}, of the two classes with "
            f"{config.attributes[0]!r}, then with {config.attributes[1]!r}; the first and last kind need twice as many",
            hint="check pairs and attributes, which are compared as text, or ask for fewer texts",
        )
    return tuple(text for kind, share in zip(kinds, shares, strict=True) for text in kind[: share * q])


def _toy(name: str, pairs: tuple[tuple[str, str], ...], attributes: tuple[str, str]) -> SpuriousPairsConfig:
    return SpuriousPairsConfig(data=KNOWN_DATASETS[name], pairs=pairs, attributes=attributes)


def _reference(name: str, ids: Mapping[str, int], attributes: tuple[str, str]) -> SpuriousPairsConfig:
    """Returns the pairs of neighbours in `ids`, class numbers by name."""
    labels = [str(number) for number in ids.values()]
    return SpuriousPairsConfig(
        data=LabelledDatasetConfig.parse(KNOWN_DATASETS[name].to_dict() | {"classes": labels}),
        pairs=tuple(zip(labels[::2], labels[1::2], strict=True)),
        attributes=attributes,
        names={str(number): name for name, number in ids.items()},
    )


TOY = (
    _toy("toy_profession", (("nurse", "surgeon"), ("teacher", "lawyer")), ("male", "female")),
    _toy("toy_category", (("book", "electronics"), ("clothing", "garden")), ("positive", "negative")),
)
"""The toy's pairs, few to keep an evaluation short."""

REFERENCE = (
    _reference(
        "LabHC/bias_in_bios_class_set1",
        {"professor": 21, "nurse": 13, "architect": 1, "journalist": 11}
        | {"surgeon": 25, "psychologist": 22, "attorney": 2, "teacher": 26},
        ("0", "1"),  # male, female
    ),
    _reference(
        "canrager/amazon_reviews_mcauley_1and5",
        {"Books": 24, "CDs_and_Vinyl": 26, "Software": 30, "Electronics": 6}
        | {"Pet_Supplies": 18, "Office_Products": 11, "Industrial_and_Scientific": 3, "Toys_and_Games": 1},
        ("1.0", "5.0"),
    ),
)
"""The reference's eight pairs."""
