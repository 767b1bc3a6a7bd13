"""Rows of a labelled dataset: text, label and attribute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import xxhash

from saepipe.data import toy
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.evaluate.texts.config import LabelledDatasetConfig, Part
from saepipe.harvest.text import read_rows, value_of

TOY_DOCUMENTS = 60_000
"""Documents to generate for the toy's datasets, which are the held-out ones, about a tenth."""


@dataclass(frozen=True)
class LabelledRow:
    """A text with its label and attribute."""

    text: str
    label: str
    attribute: str | None = None


def read_labelled_rows(
    config: LabelledDatasetConfig, part: Part | None, revision: str | None = None
) -> Iterator[LabelledRow]:
    """Yields the rows of a part that belong to the configured classes, in the dataset's order; texts may repeat.

    Args:
        config: where the rows are.
        part: chosen by a hash of the text if the dataset has no test part of its own; None: all rows of the split.
        revision: commit of a hub dataset to read.

    Raises:
        ConfigError: if a file, a split or a column does not exist.
        RemoteError: if a hub does not provide the dataset.
    """
    for row in _read(config, part or "train", revision):
        in_classes = config.classes is None or row.label in config.classes
        if (
            in_classes
            and len(row.text) > config.min_chars
            and (part is None or config.test or config.take == "first" or _in_part(config, part, row))
        ):
            yield row if not config.skip_chars else LabelledRow(row.text[config.skip_chars :], row.label, row.attribute)


def _read(config: LabelledDatasetConfig, part: Part, revision: str | None) -> Iterator[LabelledRow]:
    if config.source == "toy":
        yield from _toy_rows(config)
    elif config.pairs:
        for language in config.classes or config.pairs:
            for row in read_rows(config.dataset(part, config.pairs[language]), revision):
                yield LabelledRow(value_of(config.source, row, "translation")[language], language)
    else:
        for row in read_rows(config.dataset(part), revision, files=config.files):
            yield _labelled_row(config, row)


def _toy_rows(config: LabelledDatasetConfig) -> Iterator[LabelledRow]:
    for document in _toy_documents(config.seed, "biography" if config.subset == "biography" else "review"):
        yield _labelled_row(config, dict(document.labels) | {"text": document.text})


@cache
def _toy_documents(seed: int, kind: toy.Kind) -> tuple[toy.Document, ...]:
    """Generates the held-out documents; cached, since it takes seconds and both parts and every metric need them."""
    documents = toy.documents(seed, TOY_DOCUMENTS, [kind])
    return tuple(document for document in documents if heldout_score(document.text) < toy.HELDOUT_SHARE)


def _labelled_row(config: LabelledDatasetConfig, row: dict[Any, Any]) -> LabelledRow:
    texts = [str(value_of(config.source, row, column)) for column in config.text]
    label = str(value_of(config.source, row, config.label))
    if config.endings:
        label = next((name for ending, name in config.endings.items() if label.endswith(ending)), "")
    attribute = None if config.attribute is None else str(value_of(config.source, row, config.attribute))
    return LabelledRow(config.join.join(texts), label, attribute)


def _in_part(config: LabelledDatasetConfig, part: Part, row: LabelledRow) -> bool:
    """True if a hash of the text puts it in the part; a harvest's own hash would put all toy texts in one part."""
    score = xxhash.xxh3_64_intdigest(row.text.encode("utf-8", "surrogatepass"), seed=0x7E57) / 2.0**64
    return (score < config.test_share) == (part == "test")
