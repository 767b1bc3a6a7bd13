"""Sampling of texts from a labelled dataset: equally many of each class, sampled as the reference does."""

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
from saepipe.evaluate.texts.config import LabelledDatasetConfig, Part
from saepipe.evaluate.texts.labelled_rows import LabelledRow, read_labelled_rows

MAX_CLASSES = 50
"""Values of a label column above which it is taken for no label."""
_MIN_TEXTS = 10
"""Texts that a class needs in each part, else it is left out."""


@dataclass(frozen=True)
class LabelledTexts:
    """Sampled texts: training rows first, then test rows, each class after class."""

    rows: tuple[LabelledRow, ...]
    num_train: int
    left_out: Mapping[str, str]
    """Classes with too few texts, and how few."""

    @property
    def texts(self) -> list[str]:
        return [row.text for row in self.rows]

    @property
    def classes(self) -> list[str]:
        """Classes that were sampled, in order."""
        return list(dict.fromkeys(row.label for row in self.rows))

    def rows_of(self, part: Part) -> Sequence[LabelledRow]:
        return self.rows[: self.num_train] if part == "train" else self.rows[self.num_train :]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain data for `from_dict`."""
        rows = [[row.text, row.label, row.attribute] for row in self.rows]
        return {"rows": rows, "num_train": self.num_train, "left_out": dict(self.left_out)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> LabelledTexts:
        return cls(tuple(LabelledRow(*row) for row in plain["rows"]), plain["num_train"], plain["left_out"])


@dataclass(frozen=True)
class Sampling:
    """Number of texts of a binary task, half of them of its class, and the seed."""

    train_size: int = 4000
    test_size: int = 1000
    seed: int = 42
    mode: Mode = "fixed"
    """fixed: no text occurs twice, and a class with too few texts gives all it has, evenly over attributes;
    reference: texts may repeat, and such a class is left out"""

    def texts_per_class(self, part: Part) -> int:
        return (self.train_size if part == "train" else self.test_size) // 2


def sample_texts(config: LabelledDatasetConfig, sampling: Sampling, revision: str | None = None) -> LabelledTexts:
    """Samples texts of each class for both parts.

    Raises:
        ConfigError: if fewer than two classes have enough texts, or the label column has too many values to be classes.
    """
    sampled = _take_first(config, sampling, revision) if config.take == "first" else _sample(config, sampling, revision)
    order = config.classes or sorted({label for label, _ in sampled}, key=natural_key)
    required = sampling.texts_per_class if sampling.mode == "reference" else lambda part: _MIN_TEXTS
    left_out = {
        label: f"{len(sampled[label, 'train'])} training and {len(sampled[label, 'test'])} test texts"
        for label in order
        if any(len(sampled[label, part]) < required(part) for part in ("train", "test"))
    }
    kept = [label for label in order if label not in left_out]
    if len(kept) < 2:
        raise ConfigError(
            f"{config.name}: two classes with enough texts are needed, and it has {len(kept)}; "
            + "; ".join(f"{label!r} has {texts}" for label, texts in list(left_out.items())[:5]),
            hint="check the label column and the classes, or lower the sizes",
        )
    train, test = ([row for label in kept for row in sampled[label, part]] for part in ("train", "test"))
    return LabelledTexts((*train, *test), len(train), left_out)


_Sampled = dict[tuple[str, Part], list[LabelledRow]]


def _sample(config: LabelledDatasetConfig, sampling: Sampling, revision: str | None) -> _Sampled:
    """Samples like `DataFrame.sample(n, random_state=seed)` from each class, or from each of its attributes in turn."""
    sampled: _Sampled = defaultdict(list)
    used_texts: set[str] = set()
    for part in ("train", "test"):
        rows = read_labelled_rows(config, part, revision)
        by_class = _by_class(config, distinct_rows(rows, used_texts) if sampling.mode == "fixed" else rows)
        for label, members in by_class.items():
            groups = [list(group) for _, group in groupby(sorted(members, key=_attribute_key), key=_attribute_key)]
            if config.attribute is not None and len(groups) < 2:
                continue  # a class with a single attribute cannot be balanced
            size = sampling.texts_per_class(part) // len(groups)
            fewest = min(len(group) for group in groups)
            if fewest < size and sampling.mode == "reference":
                continue
            for group in groups:
                chosen = np.random.RandomState(sampling.seed).choice(len(group), min(size, fewest), replace=False)
                sampled[label, part] += [group[index] for index in chosen]
    return sampled


def _take_first(config: LabelledDatasetConfig, sampling: Sampling, revision: str | None) -> _Sampled:
    """Takes one more of each class than needed from the start of the stream, shuffles class by class, and cuts."""
    classes = config.classes or ()
    train, test = sampling.texts_per_class("train"), sampling.texts_per_class("test")
    pools: dict[str, list[LabelledRow]] = {label: [] for label in classes}
    for stream in _streams(config):
        used_texts: set[str] = set()
        rows = read_labelled_rows(stream, "train", revision)
        for row in distinct_rows(rows, used_texts) if sampling.mode == "fixed" else rows:
            pools[row.label].append(row)
            if all(len(pools[label]) > train + test for label in stream.classes or ()):
                break
    generator = random.Random(sampling.seed)
    sampled: _Sampled = defaultdict(list)
    for label in classes:
        generator.shuffle(pools[label])
        sampled[label, "train"] = pools[label][:train]
        sampled[label, "test"] = pools[label][train : train + test]
    return sampled


def _streams(config: LabelledDatasetConfig) -> Iterator[LabelledDatasetConfig]:
    """Yields the streams to read: one per language of parallel text, else the dataset itself."""
    if not config.pairs:
        yield config
    for language in config.pairs:
        if language in (config.classes or ()):
            yield config.model_copy(update={"classes": (language,)})


def _by_class(config: LabelledDatasetConfig, rows: Iterable[LabelledRow]) -> dict[str, list[LabelledRow]]:
    by_class: dict[str, list[LabelledRow]] = defaultdict(list)
    for row in rows:
        by_class[row.label].append(row)
        if len(by_class) > MAX_CLASSES:
            problem = f"{config.name}: column {config.label!r} has more than {MAX_CLASSES} values"
            raise ConfigError(problem, hint="list the classes to use in `classes`")
    return by_class


def distinct_rows(rows: Iterable[LabelledRow], used_texts: set[str]) -> Iterator[LabelledRow]:
    """Yields rows whose text is not in `used_texts`, and adds it there."""
    for row in rows:
        if row.text not in used_texts:
            used_texts.add(row.text)
            yield row


def _attribute_key(row: LabelledRow) -> tuple[float, str]:
    return natural_key(row.attribute or "")


def natural_key(label: str) -> tuple[float, str]:
    """Sorts numbers by value, before words."""
    try:
        return (float(label), "")
    except ValueError:
        return (float("inf"), label)
