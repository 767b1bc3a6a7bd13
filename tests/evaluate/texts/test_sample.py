"""Labelled texts against pandas and `random` used like the reference does, on small tables with its columns."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from helpers.local_hub import Hub, Repo, serve
from saepipe.data import toy
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.errors import ConfigError
from saepipe.evaluate.model.kept_work import KeptWork
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts import labelled_rows as rows
from saepipe.evaluate.texts import stored
from saepipe.evaluate.texts.config import LabelledDatasetConfig
from saepipe.evaluate.texts.known_datasets import KNOWN_DATASETS, REFERENCE
from saepipe.evaluate.texts.sample import Sampling, sample_texts

TRAIN, TEST = 12, 12  # texts per class
BIOS, AMAZON, CODE = "LabHC/bias_in_bios", "canrager/amazon_reviews_mcauley_1and5", "codeparrot/github-code"
PAIRS = {"en": "en-fr", "fr": "fr-it", "de": "de-en", "es": "es-fr", "nl": "nl-pt"}

# Samples in a separate process, since Hugging Face's libraries read HF_ENDPOINT only once.
WORKER = """
import json, sys
from saepipe.evaluate.texts.sample import Sampling, sample_texts
from saepipe.evaluate.texts.known_datasets import REFERENCE
from saepipe.evaluate.texts.dataset_source import source_version
from saepipe.evaluate.texts.labelled_rows import read_labelled_rows
for config in REFERENCE:
    for mode in ("reference", "fixed") if config == REFERENCE[0] else ("reference",):
        sampled = sample_texts(config, Sampling(24, 24, mode=mode), source_version(config.dataset("train"))["revision"])
        print(json.dumps([mode, config.name, sampled.to_dict()]))
news = REFERENCE[6]
rows = read_labelled_rows(news, None, source_version(news.dataset("train"))["revision"])
print(json.dumps(["all", news.name, [[row.text, row.label] for row in rows]]))
"""

Table = dict[str, list[Any]]


def table(part: str, columns: dict[str, list[Any]], rows_each: int, text: str) -> Table:
    """Returns `rows_each` rows of every combination, in a seeded random order, each with a different text."""
    frame = pd.MultiIndex.from_product([*columns.values(), range(rows_each)], names=[*columns, "number"]).to_frame()
    frame[text] = [f"{part} " + " ".join(map(str, key)) for key in frame.index]
    return frame.sample(frac=1, random_state=len(part)).drop(columns="number").to_dict("list")


@pytest.fixture(scope="module")
def tables() -> dict[str, dict[str, Table]]:
    """Tables by repository and file. Profession 9 has too few women to test on, and some code is too short."""
    rng = np.random.default_rng(0)
    bios: dict[str, Table] = {}
    amazon: dict[str, Table] = {}
    news: dict[str, Table] = {}
    for part, rows_each in (("train", 9), ("test", 6)):
        bios[part] = table(part, {"profession": list(range(28)), "gender": [0, 1]}, rows_each, "hard_text")
        amazon[part] = table(part, {"category": list(range(1, 8)), "rating": [1.0, 5.0]}, rows_each, "text")
        news[part] = table(part, {"label": [0, 1, 2, 3]}, 2 * rows_each, "text")
    dropped = next(
        i
        for i, pair in enumerate(zip(bios["test"]["profession"], bios["test"]["gender"], strict=True))
        if pair == (9, 1)
    )
    for values in bios["test"].values():
        del values[dropped]
    endings = np.array([".c", ".h", ".py", ".html", ".java", ".php", ".php5", ".rs"])[rng.integers(8, size=400)]
    code = {
        "path": [f"src/{number}{ending}" for number, ending in enumerate(endings)],
        "content": [f"{number} " * int(rng.integers(90, 400)) for number in range(400)],
    }
    europarl = {
        pair: {"translation": [{lang: f"{lang} {n}" for lang in pair.split("-")} for n in range(30)]}
        for pair in PAIRS.values()
    }
    return {
        BIOS: bios,
        AMAZON: amazon,
        "fancyzhx/ag_news": news,
        CODE: {"train": code},
        "Helsinki-NLP/europarl": europarl,
    }


@pytest.fixture(scope="module")
def sampled(tables: dict[str, dict[str, Table]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Texts sampled from the reference's datasets on a hub, by mode and name."""
    repos = {}
    for name, files in tables.items():
        ending = "" if "europarl" in name else "data/"
        content = {f"{ending}{part}-00000-of-00001.parquet": parquet(columns) for part, columns in files.items()}
        if "europarl" in name:
            configs = "".join(f"- config_name: {p}\n  data_files: {p}-00000-of-00001.parquet\n" for p in files)
            content["README.md"] = f"---\nconfigs:\n{configs}---\n".encode()
        if name == CODE:
            content["github-code.py"] = b"raise RuntimeError('a loading script was run')"
        repos[f"datasets/{name}"] = Repo([content])
    with serve(Hub(repos)) as hub:
        environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_TELEMETRY": "1"}
        done = subprocess.run([sys.executable, "-c", WORKER], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return {(mode, name): texts for mode, name, texts in lines}


def parquet(columns: Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def texts_by_class(sampled: dict[str, Any], part: str) -> dict[str, list[str]]:
    rows, num_train = sampled["rows"], sampled["num_train"]
    by_class: dict[str, list[str]] = {}
    for text, label, _ in rows[:num_train] if part == "train" else rows[num_train:]:
        by_class.setdefault(label, []).append(text)
    return by_class


PARTS = pytest.mark.parametrize(("part", "size"), [("train", TRAIN), ("test", TEST)])


@PARTS
@pytest.mark.parametrize(
    ("name", "source", "text", "label", "attribute", "classes"),
    [
        (f"{BIOS}_class_set1", BIOS, "hard_text", "profession", "gender", [0, 1, 2, 6]),
        (f"{BIOS}_class_set2", BIOS, "hard_text", "profession", "gender", [11, 13, 14, 18, 19]),
        (f"{BIOS}_class_set3", BIOS, "hard_text", "profession", "gender", [20, 21, 22, 25, 26]),
        (AMAZON, AMAZON, "text", "category", "rating", [1, 2, 3, 5, 6]),
    ],
)
def test_classes_are_balanced_over_their_attribute(
    tables: Any,
    sampled: Any,
    part: str,
    size: int,
    name: str,
    source: str,
    text: str,
    label: str,
    attribute: str,
    classes: Any,
) -> None:
    frame = pd.DataFrame(tables[source][part])
    expected = {}
    for value in classes:
        groups = frame[frame[label] == value].groupby(attribute)
        expected[str(value)] = [t for _, group in groups for t in group[text].sample(n=size // 2, random_state=42)]
    assert texts_by_class(sampled["reference", name], part) == expected


@PARTS
@pytest.mark.parametrize(
    ("name", "source", "label", "classes"),
    [
        (f"{AMAZON}_sentiment", AMAZON, "rating", [1.0, 5.0]),
        ("fancyzhx/ag_news", "fancyzhx/ag_news", "label", [0, 1, 2, 3]),
    ],
)
def test_classes_are_sampled_like_pandas(
    tables: Any, sampled: Any, part: str, size: int, name: str, source: str, label: str, classes: list[Any]
) -> None:
    frame = pd.DataFrame(tables[source][part])
    expected = {
        str(value): frame[frame[label] == value]["text"].sample(n=size, random_state=42).tolist() for value in classes
    }
    assert texts_by_class(sampled["reference", name], part) == expected


def test_short_code_is_left_out_and_licences_are_cut(tables: Any, sampled: Any) -> None:
    languages = {".c": "C", ".h": "C", ".py": "Python", ".html": "HTML", ".java": "Java", ".php": "PHP", ".php5": "PHP"}
    samples: dict[str, list[str]] = {language: [] for language in ("C", "Python", "HTML", "Java", "PHP")}
    code = tables[CODE]["train"]
    for path, text in zip(code["path"], code["content"], strict=True):
        language = languages.get(Path(path).suffix)
        if language and len(text) > 128 * 3 + 50 * 3:
            samples[language].append(text[150:])
        if all(len(texts) > TRAIN + TEST for texts in samples.values()):
            break
    check_shuffled(samples, sampled["reference", CODE])


def test_languages_are_read_from_their_pairs(sampled: Any) -> None:
    samples = {lang: [f"{lang} {number}" for number in range(TRAIN + TEST + 1)] for lang in PAIRS}
    check_shuffled(samples, sampled["reference", "Helsinki-NLP/europarl"])


def check_shuffled(samples: dict[str, list[str]], sampled: dict[str, Any]) -> None:
    random.seed(42)
    for texts in samples.values():
        random.shuffle(texts)
    assert texts_by_class(sampled, "train") == {label: texts[:TRAIN] for label, texts in samples.items()}
    assert texts_by_class(sampled, "test") == {label: texts[TRAIN : TRAIN + TEST] for label, texts in samples.items()}


def test_a_class_with_too_few_texts(sampled: Any) -> None:
    """Mode reference leaves it out; mode fixed takes all it has, evenly over attributes, if that is enough."""
    name = f"{BIOS}_class_set1"
    assert sampled["reference", name]["left_out"] == {"9": "12 training and 0 test texts"}
    assert sampled["fixed", name]["left_out"] == {}
    counts = Counter(label for _, label, _ in sampled["fixed", name]["rows"])
    assert counts == dict.fromkeys("0126", TRAIN + TEST) | {"9": TRAIN + 10}


def test_all_rows_of_a_split_are_read_in_its_order(tables: Any, sampled: Any) -> None:
    news = tables["fancyzhx/ag_news"]["train"]
    expected = [[text, str(label)] for text, label in zip(news["text"], news["label"], strict=True)]
    assert sampled["all", "fancyzhx/ag_news"] == expected


def test_all_eight_datasets_are_sampled(sampled: Any) -> None:
    assert len(REFERENCE) == 8
    assert len({name for _, name in sampled}) == 8


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes 600 rows of three classes and two attributes, some texts twice, to a file of any kind."""

    def make(name: str = "rows.jsonl", start: int = 0) -> str:
        records = [
            {"title": f"title {n + start}", "body": "ab" * (n % 7), "kind": "xyz"[n % 3], "who": n % 2}
            for n in [*range(550), *range(50)]
        ]
        path = tmp_path / name
        match path.suffix:
            case ".jsonl":
                path.write_text("\n".join(map(json.dumps, records)))
            case ".parquet":
                path.write_bytes(parquet({key: [row[key] for row in records] for key in records[0]}))
            case ".csv":
                with path.open("w", newline="") as file:
                    csv.writer(file).writerows(list(row.values()) for row in records)
        return str(path)

    return make


def config(source: str, **settings: Any) -> LabelledDatasetConfig:
    keys = {"text": ["title", "body"], "label": "kind"} if not source.endswith("csv") else {"text": [0, 1], "label": 2}
    return LabelledDatasetConfig.parse({"name": "mine", "source": source} | keys | settings)


FEW = Sampling(train_size=100, test_size=40)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv"])
def test_files_of_all_kinds_give_the_same_texts(write: Callable[..., str], name: str) -> None:
    sampled = sample_texts(config(write(name)), FEW)
    assert sampled == sample_texts(config(write("other.jsonl")), FEW)
    assert sampled.classes == ["x", "y", "z"]
    assert Counter(row.label for row in sampled.rows_of("train")) == dict.fromkeys("xyz", 50)
    assert Counter(row.label for row in sampled.rows_of("test")) == dict.fromkeys("xyz", 20)
    assert len(set(sampled.texts)) == len(sampled.texts)
    for row in sampled.rows:
        title, _, body = row.text.partition("\n")
        assert len(body) % 2 == 0
        assert row.label == "xyz"[int(title.split()[1]) % 3]


def test_a_text_is_in_the_same_part_in_every_sample(write: Callable[..., str]) -> None:
    everything = Sampling(train_size=10_000, test_size=10_000)
    dataset = config(write(), test_share=0.3)
    first, again = sample_texts(dataset, everything), sample_texts(dataset, Sampling(10_000, 10_000, seed=1))
    assert {row.text for row in first.rows_of("test")} == {row.text for row in again.rows_of("test")}
    assert first.rows != again.rows
    assert 0.2 < len(first.rows_of("test")) / len(first.rows) < 0.4


def test_texts_of_a_test_file_are_never_training_texts(write: Callable[..., str]) -> None:
    sampled = sample_texts(config(write(), test=write("test.jsonl", start=308)), Sampling(10_000, 10_000))
    assert not {row.text for row in sampled.rows_of("train")} & {row.text for row in sampled.rows_of("test")}
    assert all(int(row.text.split()[1]) >= 550 for row in sampled.rows_of("test"))


def test_classes_are_even_over_attributes(write: Callable[..., str]) -> None:
    sampled = sample_texts(config(write(), attribute="who", classes=["z", "x"]), FEW)
    assert sampled.classes == ["z", "x"]
    counts = Counter((row.label, row.attribute) for row in sampled.rows_of("train"))
    assert counts == {(label, who): 25 for label in "xz" for who in "01"}


@pytest.mark.parametrize("name", ["toy_profession", "toy_category"])
def test_toy_texts_were_never_trained_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TOY_DOCUMENTS", 6000)
    kind = "biography" if name == "toy_profession" else "review"
    sampled = sample_texts(KNOWN_DATASETS[name], Sampling(40, 20))
    names, attributes = (toy.PROFESSIONS, toy.GENDERS) if kind == "biography" else (toy.CATEGORIES, toy.SENTIMENTS)
    assert set(sampled.classes) == set(names)
    assert all(heldout_score(text) < toy.HELDOUT_SHARE for text in sampled.texts)
    training_texts = {d.text for d in toy.documents(0, 4000, [kind])}
    assert not training_texts.intersection(sampled.texts)
    counts = Counter((row.label, row.attribute) for row in sampled.rows_of("test"))
    assert counts == {(label, attribute): 5 for label in names for attribute in attributes}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label": "knd"}, "no column 'knd'; did you mean 'kind'?"),
        ({"classes": ["x", "w"]}, "texts are needed, and it has 1; 'w' has 0 training and 0 test texts"),
        ({"label": "title"}, "more than 50 values"),
        ({"source": "nowhere.jsonl"}, "no file 'nowhere.jsonl'"),
        ({"take": "first"}, "take: first needs classes"),
        ({"source": "toy"}, "biography and review, not None"),
    ],
)
def test_invalid_settings(write: Callable[..., str], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("?", r"\?")):
        sample_texts(config(**{"source": write()} | settings), FEW)


@pytest.fixture
def testbed(toy_cache: Path, tmp_path: Path) -> Testbed:
    def load() -> Any:
        raise AssertionError("labelled texts need no model")

    return Testbed(Cache.open(toy_cache), "h", load, KeptWork(tmp_path / "a", {}), 2, torch.device("cpu"))


def test_texts_are_sampled_once(
    write: Callable[..., str], testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = config(write())
    work = stored.texts_work(dataset, FEW)
    assert not testbed.kept_work.has(work.kind, work.key)
    sampled = stored.labelled_texts(testbed, dataset, FEW)
    assert sampled == sample_texts(dataset, FEW)
    monkeypatch.setattr(rows, "read_rows", None)
    assert stored.labelled_texts(testbed, dataset, FEW) == sampled
    moved = tmp_path / "moved.jsonl"
    Path(dataset.source).rename(moved)
    assert stored.texts_work(config(str(moved), name="another name"), FEW) == work
    moved.write_text(moved.read_text() + "\n")
    assert stored.texts_work(config(str(moved)), FEW) != work
