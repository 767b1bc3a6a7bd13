"""Pairs of classes and an attribute that has nothing to do with them: the texts of SCR (SAEBench 0.6.0).

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
from saepipe.evaluate.texts.binary_questions import Examples
from saepipe.evaluate.texts.config import LabelledConfig, Part
from saepipe.evaluate.texts.known_datasets import KNOWN
from saepipe.evaluate.texts.labelled_rows import rows
from saepipe.evaluate.texts.sample import Draw
from saepipe.evaluate.texts.stored import work_of

CONCEPT, ATTRIBUTE, SPURIOUS = range(3)
"""The questions, in this order everywhere."""

_VERSION = 1
"""Of stored texts: raised when equal settings would draw others."""

_PARTS: tuple[Part, Part] = ("train", "test")
_FEWEST = 5
"""Texts of a quarter, in either part, below which a pair is left out."""


class SpuriousConfig(Config):
    """Pairs of classes of one data set, and two values of its attribute; the positive ones first."""

    data: LabelledConfig
    pairs: tuple[tuple[str, str], ...] = Field(min_length=1)
    attributes: tuple[str, str]
    names: Mapping[str, str] = {}
    """of classes, where results call them by another"""

    @model_validator(mode="after")
    def _has_attribute(self) -> SpuriousConfig:
        if self.data.attribute is None:
            raise ValueError(f"{self.data.name} has no attribute column")
        return self

    def title(self, pair: tuple[str, str]) -> str:
        """As the reference calls a pair's results."""
        one, other = (self.names.get(label, label) for label in pair)
        return f"{self.data.name}_scr_{one}_{other}"


@dataclass(frozen=True)
class PairTexts:
    """Texts of one pair: 2 q of (+ class, + attribute), q of (-, +), q of (+, -), 2 q of (-, -), part by part."""

    title: str
    train: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def texts(self) -> list[str]:
        return [*self.train, *self.test]

    def examples(self, part: Part, generator: torch.Generator) -> tuple[Examples, Examples, Examples]:
        """Of the concept, the attribute and the spurious question: 4 q each, half of them positive."""
        q = len(self.train if part == "train" else self.test) // 6
        both, attribute_only, class_only, neither = (
            torch.arange(first * q, last * q) for first, last in ((0, 2), (2, 3), (3, 4), (4, 6))
        )

        def question(*kinds: torch.Tensor) -> Examples:
            return Examples.shuffled(torch.cat(kinds[:2]), torch.cat(kinds[2:]), generator)

        return (
            question(both[:q], class_only, attribute_only, neither[:q]),
            question(both[:q], attribute_only, class_only, neither[:q]),
            question(both[:q], both[q:], neither[:q], neither[q:]),
        )


def texts_work(config: SpuriousConfig, how: Draw) -> Work:
    """What decides the texts; raises as `labelled.stored.work_of`."""
    titles = {config.title(pair): list(pair) for pair in config.pairs}
    key = work_of(config.data, how).key
    return Work("scr_texts", {**key, "pairs": titles, "attributes": list(config.attributes), "pairs_version": _VERSION})


def spurious_texts(testbed: Testbed, config: SpuriousConfig, how: Draw, work: Work) -> list[PairTexts]:
    """`draw_pairs` as an artifact; `work` is what `texts_work` says of it."""

    def make() -> Content:
        drawn = draw_pairs(config, how, work.key["origin"].get("revision"))
        return Content({}, {"pairs": [[pair.title, pair.train, pair.test] for pair in drawn]})

    plain = testbed.artifacts.get(work.kind, work.key, make).info["pairs"]
    return [PairTexts(title, tuple(train), tuple(test)) for title, train, test in plain]


def draw_pairs(config: SpuriousConfig, how: Draw, revision: str | None = None) -> list[PairTexts]:
    """The texts of each pair.

    reference: the first rows of each kind, in the order of the data set. fixed: rows drawn by the seed, no text twice,
    and as many as there are where the data set has fewer than were asked for.

    Raises:
        ConfigError: if a pair has too few rows with either attribute.
    """
    seen: set[str] = set()
    drawn: dict[Part, dict[_Kind, list[str]]] = {part: _by_kind(config, part, how, revision, seen) for part in _PARTS}
    pairs = []
    for pair in config.pairs:
        train, test = (_chosen(config, pair, drawn[part], how, part) for part in _PARTS)
        pairs.append(PairTexts(config.title(pair), train, test))
    return pairs


_Kind = tuple[str, str | None]
"""Class and attribute."""


def _by_kind(
    config: SpuriousConfig, part: Part, how: Draw, revision: str | None, seen: set[str]
) -> dict[_Kind, list[str]]:
    """The texts of a part, in the order in which they are taken; `seen` is updated."""
    wanted = {label for pair in config.pairs for label in pair}
    found: dict[_Kind, list[str]] = defaultdict(list)
    for row in rows(config.data, part, revision):
        if row.label in wanted and (how.mode == "reference" or row.text not in seen):
            seen.add(row.text)
            found[row.label, row.attribute].append(row.text)
    if how.mode == "fixed":
        for number, kind in enumerate(sorted(found, key=str)):
            np.random.default_rng([how.seed, _PARTS.index(part), number]).shuffle(found[kind])
    return found


def _chosen(
    config: SpuriousConfig, pair: tuple[str, str], drawn: Mapping[_Kind, list[str]], how: Draw, part: Part
) -> tuple[str, ...]:
    """2 q, q, q and 2 q texts; see `PairTexts`."""
    kinds = [drawn.get((label, attribute), []) for attribute in config.attributes for label in pair]
    shares = (2, 1, 1, 2)
    wanted = how.size(part) // 2
    q = min(wanted, *(len(kind) // share for kind, share in zip(kinds, shares, strict=True)))
    if q < (wanted if how.mode == "reference" else _FEWEST):
        found = ", ".join(str(len(kind)) for kind in kinds)
        raise ConfigError(
            f"{config.title(pair)}: {found} texts to {part} on, of the first class and the other with "
            f"{config.attributes[0]!r}, then with {config.attributes[1]!r}; of two of the kinds it takes twice as many",
            hint="check pairs and attributes, which are compared as text, or ask for fewer texts",
        )
    return tuple(text for kind, share in zip(kinds, shares, strict=True) for text in kind[: share * q])


def _toy(name: str, pairs: tuple[tuple[str, str], ...], attributes: tuple[str, str]) -> SpuriousConfig:
    return SpuriousConfig(data=KNOWN[name], pairs=pairs, attributes=attributes)


def _reference(name: str, ids: Mapping[str, int], attributes: tuple[str, str]) -> SpuriousConfig:
    """Pairs are neighbours in `ids`, class numbers by name."""
    labels = [str(number) for number in ids.values()]
    return SpuriousConfig(
        data=LabelledConfig.parse(KNOWN[name].to_dict() | {"classes": labels}),
        pairs=tuple(zip(labels[::2], labels[1::2], strict=True)),
        attributes=attributes,
        names={str(number): name for name, number in ids.items()},
    )


TOY = (
    _toy(
        "toy_profession",
        (("nurse", "surgeon"), ("teacher", "lawyer")),
        ("male", "female"),
    ),
    _toy(
        "toy_category",
        (("book", "electronics"), ("clothing", "garden")),
        ("positive", "negative"),
    ),
)

"""Few, so that an evaluation takes little."""

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
