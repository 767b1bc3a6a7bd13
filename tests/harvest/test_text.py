"""Documents from local files of each kind and from a folder, and clear errors for missing files and columns."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saepipe.data import toy
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
    ids = [document.ids for document in read_documents(config)]
    assert [part.tolist() for part in ids if part is not None] == [[5, 6, 7], [8]]


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
    (tmp_path / "news.csv").write_text("3,Oil rises again,Prices rose on Monday after talks in Vienna failed.\n" * 2)
    with pytest.raises(ConfigError, match="no column 'text'; it has 3, Oil rises again, Prices rose on Mon") as error:
        read(source=str(tmp_path / "news.csv"))
    assert "columns: [1, 2]" in str(error.value.hint)
    assert read(source=str(tmp_path / "news.csv"), columns=[1, 2])
    with pytest.raises(ConfigError, match="columns by index are for .csv files"):
        read(source=source, columns=[1])
    pq.write_table(pa.table({"text": [3, 4]}), tmp_path / "numbers.parquet")
    with pytest.raises(ConfigError, match=r"document 0 of .*: column 'text' holds int \(3\), not text"):
        read(source=str(tmp_path / "numbers.parquet"))


def test_a_subset_of_the_toy_is_one_kind_of_text() -> None:
    first = next(read_documents(DatasetConfig(subset="spelling")))
    assert first.text == next(toy.documents(kinds=("spelling",))).text


def test_a_kind_that_the_toy_does_not_have_is_named() -> None:
    with pytest.raises(ConfigError, match="no kind 'poems'; subset may be biography, review, spelling, narrative"):
        DatasetConfig.parse({"subset": "poems"})


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


WRONG_IDS: dict[str, tuple[Any, str]] = {
    "negative": ([5, -100, 7], r"int \(-100\), not token ids"),
    "beyond int32": ([5, 2**40], r"int \(1099511627776\), not token ids"),
    "null": ([5, None, 7], "a list with None, not a list of token ids"),
    "text": (["5", "6"], "not a list of token ids"),
    "fractions": ([5.5, 6.5], "not a list of token ids"),
    "truth values": ([True, False], "not a list of token ids"),
    "nested": ([[5, 6], [7, 8]], "not a list of token ids"),
    "one number": (5, "not a list of token ids"),
    "a text": ("5 6 7", "not a list of token ids"),
    "no value": (None, "null, not a list of token ids"),
}


@pytest.mark.parametrize(("value", "problem"), WRONG_IDS.values(), ids=WRONG_IDS)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_only_whole_numbers_from_zero_are_token_ids(tmp_path: Path, value: Any, problem: str, ending: str) -> None:
    path = tmp_path / f"ids.{ending}"
    if ending == "parquet":
        pq.write_table(pa.table({"ids": [value]}), path)
    else:
        path.write_text(json.dumps({"ids": value}) + "\n")
    config = DatasetConfig(source=str(path), columns=("ids",), tokenised=True)
    with pytest.raises(ConfigError, match=f"document 0 of .*: column 'ids' holds .*{problem}"):
        list(read_documents(config))


def test_a_null_is_refused_or_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"title": "t", "text": text}) + "\n" for text in ("a", None, "b")))
    with pytest.raises(ConfigError, match=r"document 1 of .*: column 'text' holds null, not text(.|\n)*nulls: skip"):
        read(source=str(path))
    numbers: list[int] = []
    config = DatasetConfig.parse({"source": str(path), "columns": ["title", "text"], "nulls": "skip"})
    assert [(d.number, d.text) for d in read_documents(config, nulls=numbers)] == [(0, "t\na"), (2, "t\nb")]
    assert numbers == [1]


def json_lines(texts: list[str]) -> str:
    return "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)


CONTENTS = {
    "a.jsonl": json_lines(TEXTS),
    "a.json": json.dumps([{"text": text} for text in TEXTS], ensure_ascii=False, indent=1),
    "texts.json": json.dumps(TEXTS, ensure_ascii=False),
    "lines.json": json_lines(TEXTS),
    "a.csv": "text\n" + "".join('"' + text.replace('"', '""') + '"\n' for text in TEXTS),
    "a.txt": "\n\n".join(TEXTS[:3]),
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".zst": lambda data: pa.compress(data, codec="zstd", asbytes=True),
}


@pytest.mark.parametrize("ending", COMPRESS)
@pytest.mark.parametrize("name", [name for name in CONTENTS if name != "a.txt"])
def test_formats_and_compressions(tmp_path: Path, name: str, ending: str) -> None:
    path = tmp_path / f"{name}{ending}"
    path.write_bytes(COMPRESS[ending](CONTENTS[name].encode()))
    assert read(source=str(path)) == TEXTS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", CONTENTS)
def test_encodings_and_byte_order_marks(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes(CONTENTS[name].replace("🙂", "ü").encode(encoding))
    declared = "utf-8" if encoding == "utf-8-sig" else encoding
    expected = [text.replace("🙂", "ü") for text in (TEXTS[:3] if name == "a.txt" else TEXTS)]
    assert read(source=str(path), encoding=declared) == expected


@pytest.mark.parametrize("name", CONTENTS)
def test_text_in_another_encoding_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes((CONTENTS[name].replace("🙂", "ü").replace("first", "fürst")).encode("latin-1"))
    with pytest.raises(ConfigError, match=r"(?s)codec can't decode.*dataset\.encoding"):
        read(source=str(path))


@pytest.mark.parametrize("encoding", ["latin-17", "base64", "no such", ""])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(ConfigError, match="there is no such encoding"):
        DatasetConfig.parse({"encoding": encoding})


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_truncated_file_is_refused(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a.jsonl{ending}"
    path.write_bytes(COMPRESS[ending](json_lines(TEXTS * 50).encode())[:-20])
    with pytest.raises(ConfigError, match=r"a\.jsonl"):
        read(source=str(path))


@pytest.mark.parametrize("content", ['{"text": "a"', "[1, 2", "5", '{"text": "a"}\n[{"text": "b"}', "[[[[5]]]]"])
def test_what_is_not_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ConfigError, match=r"a\.json"):
        read(source=str(tmp_path / "a.json"))


def test_folders_of_save_to_disk_are_read(tmp_path: Path) -> None:
    parts = {"train": datasets.Dataset.from_dict({"text": TEXTS}), "test": datasets.Dataset.from_dict({"text": ["x"]})}
    parts["train"].save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "several"))
    assert read(source=str(tmp_path / "one")) == TEXTS
    assert read(source=str(tmp_path / "several")) == TEXTS
    assert read(source=str(tmp_path / "several"), split="test") == ["x"]
    with pytest.raises(ConfigError, match=r"has no split 'other'(.|\n)*train, test"):
        read(source=str(tmp_path / "several"), split="other")
    next((tmp_path / "one").glob("*.arrow")).unlink()
    with pytest.raises(ConfigError, match="cannot read the dataset"):
        read(source=str(tmp_path / "one"))


def test_keys_at_their_default_leave_a_config_as_earlier_versions_wrote_it() -> None:
    assert {"encoding", "nulls"}.isdisjoint(DatasetConfig().to_dict())
    plain = DatasetConfig(encoding="latin-1", nulls="skip").to_dict()
    assert DatasetConfig.parse(plain) == DatasetConfig(encoding="latin-1", nulls="skip")
