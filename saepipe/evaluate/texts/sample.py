"""Texts drawn from the rows of a data set: the same numbers of each class, the way the reference draws them."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from saepipe.data.errors import ConfigError
from saepipe.evaluate.model.config import Mode
from saepipe.evaluate.texts.config import LabelledConfig, Part
from saepipe.evaluate.texts.labelled_rows import Row, rows

_MOST_CLASSES = 50
_FEWEST = 10
"""Texts of a class, in either part, below which it is left out."""


@dataclass(frozen=True)
class LabelledTexts:
    """What was drawn: training rows first, then test rows, each class after class."""

    rows: tuple[Row, ...]
    num_train: int
    left_out: Mapping[str, str]
    """Classes with too few texts, and how few."""

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self.rows]

    @property
    def classes(self) -> list[str]:
        """Those that were drawn, in order."""
        return list(dict.fromkeys(row.label for row in self.rows))

    def of(self, part: Part) -> Sequence[Row]:
        return self.rows[: self.num_train] if part == "train" else self.rows[self.num_train :]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, for `from_dict`."""
        plain = [[row.text, row.label, row.attribute] for row in self.rows]
        return {"rows": plain, "num_train": self.num_train, "left_out": dict(self.left_out)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LabelledTexts:
        return cls(tuple(Row(*row) for row in plain["rows"]), plain["num_train"], plain["left_out"])


@dataclass(frozen=True)
class Draw:
    """How many texts a binary task has, half of them of its class, and the seed."""

    train_size: int = 4000
    test_size: int = 1000
    seed: int = 42
    mode: Mode = "fixed"
    """fixed: a text stands once, and where a class has fewer texts all of them are taken, evenly over attributes;
    reference: texts may repeat, and such a class is left out"""

    def size(self, part: Part) -> int:
        """Texts of a class."""
        return (self.train_size if part == "train" else self.test_size) // 2


def draw(config: LabelledConfig, how: Draw, revision: str | None = None) -> LabelledTexts:
    """Texts of each class for both parts.

    Raises:
        ConfigError: if fewer than two classes have enough texts, or a column of labels holds anything but classes.
    """
    drawn = _first(config, how, revision) if config.take == "first" else _sample(config, how, revision)
    order = config.classes or sorted({label for label, _ in drawn}, key=_natural)
    enough = how.size if how.mode == "reference" else lambda part: _FEWEST
    left_out = {
        label: f"{len(drawn[label, 'train'])} and {len(drawn[label, 'test'])} texts to train and test on"
        for label in order
        if any(len(drawn[label, part]) < enough(part) for part in ("train", "test"))
    }
    kept = [label for label in order if label not in left_out]
    if len(kept) < 2:
        raise ConfigError(
            f"{config.name}: {len(kept)} of its classes have enough texts; "
            + "; ".join(f"{label!r} has {why}" for label, why in list(left_out.items())[:5]),
            hint="check the label column and the classes, or lower the sizes",
        )
    train, test = ([row for label in kept for row in drawn[label, part]] for part in ("train", "test"))
    return LabelledTexts((*train, *test), len(train), left_out)


_Drawn = dict[tuple[str, Part], list[Row]]


def _sample(config: LabelledConfig, how: Draw, revision: str | None) -> _Drawn:
    """As `DataFrame.sample(n, random_state=seed)` of each class, or of each of its attributes in turn."""
    drawn: _Drawn = defaultdict(list)
    seen: set[str] = set()
    for part in ("train", "test"):
        found = rows(config, part, revision)
        by_class = _by_class(config, _distinct(found, seen) if how.mode == "fixed" else found)
        for label, members in by_class.items():
            groups = [list(group) for _, group in groupby(sorted(members, key=_attribute), key=_attribute)]
            if config.attribute is not None and len(groups) < 2:
                continue  # a class of one attribute cannot be balanced
            wanted = how.size(part) // len(groups)
            fewest = min(len(group) for group in groups)
            if fewest < wanted and how.mode == "reference":
                continue
            for group in groups:
                chosen = np.random.RandomState(how.seed).choice(len(group), min(wanted, fewest), replace=False)
                drawn[label, part] += [group[index] for index in chosen]
    return drawn


def _first(config: LabelledConfig, how: Draw, revision: str | None) -> _Drawn:
    """One more than needed of each class from the stream's beginning, shuffled class by class, and cut."""
    classes = config.classes or ()
    train, test = how.size("train"), how.size("test")
    pools: dict[str, list[Row]] = {label: [] for label in classes}
    for stream in _streams(config):
        seen: set[str] = set()
        found = rows(stream, "train", revision)
        for row in _distinct(found, seen) if how.mode == "fixed" else found:
            pools[row.label].append(row)
            if all(len(pools[label]) > train + test for label in stream.classes or ()):
                break
    generator = random.Random(how.seed)
    drawn: _Drawn = defaultdict(list)
    for label in classes:
        generator.shuffle(pools[label])
        drawn[label, "train"] = pools[label][:train]
        drawn[label, "test"] = pools[label][train : train + test]
    return drawn


def _streams(config: LabelledConfig) -> Iterator[LabelledConfig]:
    """Parallel text has a stream for each language."""
    if not config.pairs:
        yield config
    for language in config.pairs:
        if language in (config.classes or ()):
            yield config.model_copy(update={"classes": (language,)})


def _by_class(config: LabelledConfig, found: Iterable[Row]) -> dict[str, list[Row]]:
    by_class: dict[str, list[Row]] = defaultdict(list)
    for row in found:
        by_class[row.label].append(row)
        if len(by_class) > _MOST_CLASSES:
            problem = f"{config.name}: column {config.label!r} has more than {_MOST_CLASSES} values"
            raise ConfigError(problem, hint="name the classes")
    return by_class


def _distinct(found: Iterable[Row], seen: set[str]) -> Iterator[Row]:
    for row in found:
        if row.text not in seen:
            seen.add(row.text)
            yield row


def _attribute(row: Row) -> tuple[float, str]:
    return _natural(row.attribute or "")


def _natural(label: str) -> tuple[float, str]:
    """Numbers by value, before words."""
    try:
        return (float(label), "")
    except ValueError:
        return (float("inf"), label)
