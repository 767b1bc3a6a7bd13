"""The version of a dataset follows its content, not where it is or how it is generated."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from saepipe.data import toy
from saepipe.data.errors import ConfigError
from saepipe.evaluate.texts import dataset_source
from saepipe.evaluate.texts.dataset_source import dataset_key, source_version
from saepipe.harvest.config import DatasetConfig


def test_dataset_key_depends_on_content_not_on_path(tmp_path: Path) -> None:
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    first.write_text('{"text": "a"}')
    second.write_text('{"text": "a"}')
    assert dataset_key(DatasetConfig(source=str(first))) == dataset_key(DatasetConfig(source=str(second)))
    second.write_text('{"text": "b"}')
    assert dataset_key(DatasetConfig(source=str(first))) != dataset_key(DatasetConfig(source=str(second)))
    with pytest.raises(ConfigError, match="there is no file"):
        dataset_key(DatasetConfig(source=str(tmp_path / "none.csv")))


def test_the_toy_corpus_has_the_version_of_its_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    version = source_version(DatasetConfig())
    assert version == {"documents": "25ccae83b61c984b"}  # as long as no text changes, stored work is reused
    monkeypatch.setattr(dataset_source, "toy_version", dataset_source.toy_version.__wrapped__)  # made but once
    monkeypatch.setattr(toy, "documents", partial(toy.documents, start=1))
    assert source_version(DatasetConfig()) != version
