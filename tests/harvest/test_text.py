"""Documents from local files of each kind and from a folder, and clear errors for missing files and columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saepipe.data.errors import ConfigError
from saepipe.harvest.config import DatasetConfig
from saepipe.harvest.text import read_documents

pytestmark = pytest.mark.quick

TEXTS = ["first, with a comma", "1", "NA", 'a "quoted" one\nover two lines', "zum Schluß 🙂"]


def read(**settings: Any) -> list[str | None]:
    return [document.text for document in read_documents(DatasetConfig.parse(settings))]


def write(folder: Path, name: str) -> str:
    path = folder / name
    table = pa.table({"title": [f"t{i}" for i in range(len(TEXTS))], "text": TEXTS})
    if name.endswith(".parquet"):
        pq.write_table(table, path)
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    else:
        rows = [("title", "text")] * name.startswith("headed") + list(zip(*table.to_pydict().values(), strict=True))
        path.write_text("".join(",".join('"' + cell.replace('"', '""') + '"' for cell in row) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl", "headed.csv"])
def test_a_column_by_name(tmp_path: Path, name: str) -> None:
    assert read(source=write(tmp_path, name), columns="text") == TEXTS


@pytest.mark.parametrize(("name", "columns"), [("a.jsonl", ["title", "text"]), ("plain.csv", [0, 1])])
def test_several_columns_joined(tmp_path: Path, name: str, columns: list[str | int]) -> None:
    source = write(tmp_path, name)
    assert read(source=source, columns=columns, join=": ") == [f"t{i}: {text}" for i, text in enumerate(TEXTS)]


def test_text_files_by_paragraph_line_or_document(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n\nthree\n")
    assert [text and text.split() for text in read(source=str(path))] == [["one", "two"], ["three"]]
    assert read(source=str(path), documents="line") == ["one", "two", "three"]
    assert [text and text.split() for text in read(source=str(path), documents="document")] == [["one", "two", "three"]]


def test_token_ids_are_read_as_documents(tmp_path: Path) -> None:
    path = tmp_path / "ids.parquet"
    pq.write_table(pa.table({"input_ids": [[5, 6, 7], [8]]}), path)
    config = DatasetConfig.parse({"source": str(path), "columns": "input_ids", "tokenised": True})
    assert [document.ids for document in read_documents(config)] == [(5, 6, 7), (8,)]


def test_a_folder_is_read_like_a_hub_dataset(tmp_path: Path) -> None:
    """It is the same `load_dataset` call with a split; tests/harvest/test_hub.py reads from a hub."""
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": TEXTS}), tmp_path / "data" / "validation-00000-of-00001.parquet")
    assert read(source=str(tmp_path), split="validation") == TEXTS
    with pytest.raises(ConfigError, match="cannot read the dataset .*Bad split"):
        read(source=str(tmp_path), split="no_such_split")


def test_empty_documents_are_left_out_but_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": ""}\n{"text": "b"}\n')
    numbers = [document.number for document in read_documents(DatasetConfig(source=str(path)))]
    assert numbers == [0, 2]


def test_errors_name_the_mistake(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file 'nowhere.csv'"):
        read(source="nowhere.csv")
    source = write(tmp_path, "a.jsonl")
    with pytest.raises(ConfigError, match="no column 'txet'; did you mean 'text'"):
        read(source=source, columns="txet")
    with pytest.raises(ConfigError, match="columns by index are for .csv files"):
        read(source=source, columns=[1])
    pq.write_table(pa.table({"text": [3, 4]}), tmp_path / "numbers.parquet")
    with pytest.raises(ConfigError, match="document 0 of .*: column 'text' holds int, not text"):
        read(source=str(tmp_path / "numbers.parquet"))


def test_the_toy_is_the_default_and_endless() -> None:
    stream = read_documents(DatasetConfig())
    texts = [next(stream).text for _ in range(50)]
    assert len(set(texts)) > 45
    assert texts == [document.text for document, _ in zip(read_documents(DatasetConfig()), range(50), strict=False)]


def test_real_news(ag_news: Path) -> None:
    texts = read(source=str(ag_news), columns=[1, 2])
    assert len(texts) == 7600
    assert texts[0] is not None
    assert texts[0].startswith("Fears for T N pension after talks\nUnions representing")
