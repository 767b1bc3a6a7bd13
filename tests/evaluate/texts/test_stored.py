"""First rows of a dataset as an artifact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from saepipe.data.cache.cache import Cache
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts.config import LabelledDatasetConfig
from saepipe.evaluate.texts.stored import first_rows, first_rows_work

LINES = [{"text": text, "label": number} for number, text in enumerate(["a", "b", "a", "c", "d"])]


@pytest.fixture
def testbed(toy_cache: Path, tmp_path: Path) -> Testbed:
    def load() -> Any:
        raise AssertionError("rows need no model")

    return Testbed(Cache.open(toy_cache), "h", load, KeptWork(tmp_path / "work", {}), 2, torch.device("cpu"))


def config(path: Path) -> LabelledDatasetConfig:
    return LabelledDatasetConfig(name="mine", source=str(path))


@pytest.mark.parametrize(("distinct", "texts"), [(False, "abac"), (True, "abcd")])
def test_first_rows_are_in_the_files_order(testbed: Testbed, tmp_path: Path, distinct: bool, texts: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    work = first_rows_work(config(path), 4, distinct=distinct)
    rows = first_rows(testbed, config(path), work)
    assert [row.text for row in rows] == list(texts)
    assert all(LINES[int(row.label)]["text"] == row.text for row in rows)
    path.unlink()  # read once
    assert first_rows(testbed, config(path), work) == rows


def test_the_work_does_not_depend_on_a_files_place(tmp_path: Path) -> None:
    """Nor for a compressed file."""
    works = []
    for folder in ("here", "there"):
        path = tmp_path / folder / "rows.csv.zst"
        path.parent.mkdir()
        with pa.CompressedOutputStream(str(path), "zstd") as file:
            file.write(b"text,label\na,b\n")
        works.append(first_rows_work(config(path), 4, distinct=False))
    assert works[0] == works[1]
    assert works[0] != first_rows_work(config(path), 5, distinct=False)
