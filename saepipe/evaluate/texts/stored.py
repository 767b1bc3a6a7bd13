"""Drawn texts as an artifact: a second call neither asks a hub for rows nor draws."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from saepipe.evaluate.model.kept_work import Content, Work
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.config import LabelledConfig
from saepipe.evaluate.texts.dataset_source import origin
from saepipe.evaluate.texts.sample import Draw, LabelledTexts, draw

KIND = "labelled_texts"
_VERSION = 1
"""Raised whenever the same rows are drawn or read otherwise."""


def work_of(config: LabelledConfig, how: Draw) -> Work:
    """What decides the texts: settings and origin, not the data set's name nor where a file lies.

    Raises:
        ConfigError: if a file is not there.
        RemoteError: if a hub does not know the data set.
    """
    settings: dict[str, Any] = config.to_dict()
    for key in ("name", "revision", *(("source", "test") if config.is_file else ())):
        del settings[key]
    tests = [Path(config.test)] if config.test and config.is_file else []
    rows = origin(config.table("train"), tests)
    return Work(KIND, {"dataset": settings, "origin": rows, "draw": asdict(how), "version": _VERSION})


def labelled_texts(testbed: Testbed, config: LabelledConfig, how: Draw, work: Work | None = None) -> LabelledTexts:
    """The texts of a data set, drawn once; see `draw`. `work` is what `work_of` says of them, if known."""
    work = work or work_of(config, how)
    revision = work.key["origin"].get("revision")

    def make() -> Content:
        return Content({}, draw(config, how, revision).to_dict())

    return LabelledTexts.from_dict(testbed.artifacts.get(work.kind, work.key, make).info)
