"""Sampled texts, and first rows, as artifacts, so that a second call neither asks a hub for rows nor samples again."""

from __future__ import annotations

from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.config import LabelledDatasetConfig
from saepipe.evaluate.texts.dataset_source import source_version
from saepipe.evaluate.texts.labelled_rows import LabelledRow, read_labelled_rows
from saepipe.evaluate.texts.sample import LabelledTexts, Sampling, distinct_rows, sample_texts

_KIND = "labelled_texts"
_VERSION = 1
"""Increased when equal settings would read or sample other texts."""


def texts_work(config: LabelledDatasetConfig, sampling: Sampling) -> Work:
    """Returns the work that decides the texts, independent of the dataset's name and of a file's path.

    Raises:
        ConfigError: if a file does not exist.
        RemoteError: if a hub does not know the dataset.
    """
    return Work(_KIND, {**_dataset_key(config), "draw": asdict(sampling), "version": _VERSION})


def labelled_texts(
    testbed: Testbed, config: LabelledDatasetConfig, sampling: Sampling, work: Work | None = None
) -> LabelledTexts:
    """Returns the texts of a dataset, sampled once. `work` may be given if `texts_work` was already called."""
    work = work or texts_work(config, sampling)
    revision = work.key["origin"].get("revision")

    def make() -> Content:
        return Content({}, sample_texts(config, sampling, revision).to_dict())

    return LabelledTexts.from_dict(testbed.kept_work.get(work.kind, work.key, make).info)


def first_rows_work(config: LabelledDatasetConfig, max_rows: int, *, distinct: bool) -> Work:
    """Returns the work that decides the first rows of a dataset's split. Raises like `texts_work`.

    Args:
        config: where the rows are.
        max_rows: rows, at most.
        distinct: leaves out a row whose text an earlier row has.
    """
    return Work("first_rows", {**_dataset_key(config), "max_rows": max_rows, "distinct": distinct, "version": _VERSION})


def first_rows(testbed: Testbed, config: LabelledDatasetConfig, work: Work) -> list[LabelledRow]:
    """Returns the rows that `work`, of `first_rows_work`, decides, in the dataset's order; read once."""

    def make() -> Content:
        rows = read_labelled_rows(config, None, work.key["origin"].get("revision"))
        rows = distinct_rows(rows, set()) if work.key["distinct"] else rows
        return Content({}, {"rows": [[row.text, row.label] for row in islice(rows, work.key["max_rows"])]})

    return [LabelledRow(*row) for row in testbed.kept_work.get(work.kind, work.key, make).info["rows"]]


def _dataset_key(config: LabelledDatasetConfig) -> dict[str, Any]:
    """Returns settings and version of a dataset, without its name and a file's path."""
    settings: dict[str, Any] = config.to_dict()
    for key in ("name", "revision", *(("source", "test") if config.is_file else ())):
        del settings[key]
    tests = [Path(config.test)] if config.test and config.is_file else []
    return {"dataset": settings, "origin": source_version(config.dataset("train"), tests)}
