"""Rows of text, label and attribute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import xxhash

from saepipe.data import toy
from saepipe.data.cache.tokens import heldout_score
from saepipe.evaluate.texts.config import LabelledConfig, Part
from saepipe.harvest.text import read_rows, value_of

TOY_DOCUMENTS = 60_000
"""The toy's data sets are the held-out ones of so many documents, about a tenth."""


@dataclass(frozen=True)
class Row:
    """A text and what is true of it."""

    text: str
    label: str
    attribute: str | None = None


def rows(config: LabelledConfig, part: Part, revision: str | None = None) -> Iterator[Row]:
    """The rows of a part that belong to its classes, in the order of the data set; texts may repeat.

    Args:
        config: where they are.
        part: of data sets without a test part of their own, a hash of the text decides.
        revision: the commit to read of a hub's data set.

    Raises:
        ConfigError: if a file, a split or a column is not there.
        RemoteError: if a hub does not give the data set.
    """
    for row in _read(config, part, revision):
        wanted = config.classes is None or row.label in config.classes
        if (
            wanted
            and len(row.text) > config.min_chars
            and (config.test or config.take == "first" or _in(config, part, row))
        ):
            yield row if not config.skip_chars else Row(row.text[config.skip_chars :], row.label, row.attribute)


def _read(config: LabelledConfig, part: Part, revision: str | None) -> Iterator[Row]:
    if config.source == "toy":
        yield from _toy(config)
    elif config.pairs:
        for language in config.classes or config.pairs:
            for row in read_rows(config.table(part, config.pairs[language]), revision):
                yield Row(value_of(config.source, row, "translation")[language], language)
    else:
        for row in read_rows(config.table(part), revision, files=config.files):
            yield _row(config, row)


def _toy(config: LabelledConfig) -> Iterator[Row]:
    for document in _toy_documents(config.seed, "biography" if config.subset == "biography" else "review"):
        yield _row(config, dict(document.labels) | {"text": document.text})


@cache
def _toy_documents(seed: int, kind: toy.Kind) -> tuple[toy.Document, ...]:
    """Both parts and every metric ask for them, and making them takes seconds."""
    made = toy.documents(seed, TOY_DOCUMENTS, [kind])
    return tuple(document for document in made if heldout_score(document.text) < toy.HELDOUT_SHARE)


def _row(config: LabelledConfig, row: dict[Any, Any]) -> Row:
    texts = [str(value_of(config.source, row, column)) for column in config.text]
    label = str(value_of(config.source, row, config.label))
    if config.endings:
        label = next((name for ending, name in config.endings.items() if label.endswith(ending)), "")
    attribute = None if config.attribute is None else str(value_of(config.source, row, config.attribute))
    return Row(config.join.join(texts), label, attribute)


def _in(config: LabelledConfig, part: Part, row: Row) -> bool:
    """Not the hash that decides what is held out of a harvest: that would put the toy's texts on one side."""
    score = xxhash.xxh3_64_intdigest(row.text.encode("utf-8", "surrogatepass"), seed=0x7E57) / 2.0**64
    return (score < config.test_share) == (part == "test")
