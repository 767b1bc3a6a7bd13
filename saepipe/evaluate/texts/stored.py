"""Sampled texts as artifacts, so that a second call neither asks a hub for rows nor samples again."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.config import LabelledDatasetConfig
from saepipe.evaluate.texts.dataset_source import source_version
from saepipe.evaluate.texts.sample import LabelledTexts, Sampling, sample_texts

_KIND = "labelled_texts"
_VERSION = 1
"""Increased when equal settings would read or sample other texts."""


def texts_work(config: LabelledDatasetConfig, sampling: Sampling) -> Work:
    """Returns the work that decides the texts, independent of the dataset's name and of a file's path.

    Raises:
        ConfigError: if a file does not exist.
        RemoteError: if a hub does not know the dataset.
    """
    settings: dict[str, Any] = config.to_dict()
    for key in ("name", "revision", *(("source", "test") if config.is_file else ())):
        del settings[key]
    tests = [Path(config.test)] if config.test and config.is_file else []
    version = source_version(config.dataset("train"), tests)
    return Work(_KIND, {"dataset": settings, "origin": version, "draw": asdict(sampling), "version": _VERSION})


def labelled_texts(
    testbed: Testbed, config: LabelledDatasetConfig, sampling: Sampling, work: Work | None = None
) -> LabelledTexts:
    """Returns the texts of a dataset, sampled once. `work` may be given if `texts_work` was already called."""
    work = work or texts_work(config, sampling)
    revision = work.key["origin"].get("revision")

    def make() -> Content:
        return Content({}, sample_texts(config, sampling, revision).to_dict())

    return LabelledTexts.from_dict(testbed.kept_work.get(work.kind, work.key, make).info)
