"""Labelled texts against pandas and `random`, as the reference uses them, on small made-up tables of its columns."""

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
from saepipe.data.cache.tokens import heldout_score
from saepipe.data.errors import ConfigError
from saepipe.evaluate.model.kept_work import Artifacts
from saepipe.evaluate.model.testbed import Testbed
from saepipe.evaluate.texts import labelled_rows as rows
from saepipe.evaluate.texts import stored
from saepipe.evaluate.texts.config import LabelledConfig
from saepipe.evaluate.texts.known_datasets import KNOWN, REFERENCE
from saepipe.evaluate.texts.sample import Draw, draw

TRAIN, TEST = 12, 12  # of a class
BIOS, AMAZON, CODE = "LabHC/bias_in_bios", "canrager/amazon_reviews_mcauley_1and5", "codeparrot/github-code"
PAIRS = {"en": "en-fr", "fr": "fr-it", "de": "de-en", "es": "es-fr", "nl": "nl-pt"}

# Draws in a process of its own, since Hugging Face's libraries read HF_ENDPOINT once.
WORKER = """
import json, sys
from saepipe.evaluate.texts.sample import Draw, draw
from saepipe.evaluate.texts.known_datasets import REFERENCE
from saepipe.evaluate.texts.dataset_source import origin
for config in REFERENCE:
    for mode in ("reference", "fixed") if config == REFERENCE[0] else ("reference",):
        found = draw(config, Draw(24, 24, mode=mode), origin(config.table("train"))["revision"])
        print(json.dumps([mode, config.name, found.to_dict()]))
"""

Table = dict[str, list[Any]]


def table(part: str, columns: dict[str, list[Any]], rows_each: int, text: str) -> Table:
    """`rows_each` rows of every combination, in a seeded random order, each with a text of its own."""
    frame = pd.MultiIndex.from_product([*columns.values(), range(rows_each)], names=[*columns, "number"]).to_frame()
    frame[text] = [f"{part} " + " ".join(map(str, key)) for key in frame.index]
    return frame.sample(frac=1, random_state=len(part)).drop(columns="number").to_dict("list")


@pytest.fixture(scope="module")
def tables() -> dict[str, dict[str, Table]]:
    """Of each repository, by file. Profession 9 has too few women to test on, and code has texts that are too short."""
    rng = np.random.default_rng(0)
    bios: dict[str, Table] = {}
    amazon: dict[str, Table] = {}
    news: dict[str, Table] = {}
    for part, rows_each in (("train", 9), ("test", 6)):
        bios[part] = table(part, {"profession": list(range(28)), "gender": [0, 1]}, rows_each, "hard_text")
        amazon[part] = table(part, {"category": list(range(1, 8)), "rating": [1.0, 5.0]}, rows_each, "text")
        news[part] = table(part, {"label": [0, 1, 2, 3]}, 2 * rows_each, "text")
    lost = next(
        i
        for i, pair in enumerate(zip(bios["test"]["profession"], bios["test"]["gender"], strict=True))
        if pair == (9, 1)
    )
    for values in bios["test"].values():
        del values[lost]
    endings = np.array([".c", ".h", ".py", ".html", ".java", ".php", ".php5", ".rs"])[rng.integers(8, size=400)]
    code = {
        "path": [f"src/{number}{ending}" for number, ending in enumerate(endings)],
        "content": [f"{number} " * int(rng.integers(90, 400)) for number in range(400)],
    }
    europarl = {
        pair: {"translation": [{one: f"{one} {n}" for one in pair.split("-")} for n in range(30)]}
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
def drawn(tables: dict[str, dict[str, Table]]) -> dict[tuple[str, str], dict[str, Any]]:
    """What is drawn of the reference's data sets, by mode and name, from a hub."""
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
    return {(mode, name): found for mode, name, found in lines}


def parquet(columns: Table) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def texts_by_class(found: dict[str, Any], part: str) -> dict[str, list[str]]:
    kept = found["rows"][: found["num_train"]] if part == "train" else found["rows"][found["num_train"] :]
    by_class: dict[str, list[str]] = {}
    for text, label, _ in kept:
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
def test_classes_are_balanced_by_a_second_column(
    tables: Any,
    drawn: Any,
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
    for one in classes:
        groups = frame[frame[label] == one].groupby(attribute)
        expected[str(one)] = [t for _, group in groups for t in group[text].sample(n=size // 2, random_state=42)]
    assert texts_by_class(drawn["reference", name], part) == expected


@PARTS
@pytest.mark.parametrize(
    ("name", "source", "label", "classes"),
    [
        (f"{AMAZON}_sentiment", AMAZON, "rating", [1.0, 5.0]),
        ("fancyzhx/ag_news", "fancyzhx/ag_news", "label", [0, 1, 2, 3]),
    ],
)
def test_classes_are_sampled(
    tables: Any, drawn: Any, part: str, size: int, name: str, source: str, label: str, classes: list[Any]
) -> None:
    frame = pd.DataFrame(tables[source][part])
    expected = {
        str(one): frame[frame[label] == one]["text"].sample(n=size, random_state=42).tolist() for one in classes
    }
    assert texts_by_class(drawn["reference", name], part) == expected


def test_code_is_long_enough_and_loses_its_licence(tables: Any, drawn: Any) -> None:
    languages = {".c": "C", ".h": "C", ".py": "Python", ".html": "HTML", ".java": "Java", ".php": "PHP", ".php5": "PHP"}
    samples: dict[str, list[str]] = {one: [] for one in ("C", "Python", "HTML", "Java", "PHP")}
    code = tables[CODE]["train"]
    for path, text in zip(code["path"], code["content"], strict=True):
        language = languages.get(Path(path).suffix)
        if language and len(text) > 128 * 3 + 50 * 3:
            samples[language].append(text[150:])
        if all(len(found) > TRAIN + TEST for found in samples.values()):
            break
    check_shuffled(samples, drawn["reference", CODE])


def test_languages_are_taken_from_their_pairs(drawn: Any) -> None:
    samples = {one: [f"{one} {number}" for number in range(TRAIN + TEST + 1)] for one in PAIRS}
    check_shuffled(samples, drawn["reference", "Helsinki-NLP/europarl"])


def check_shuffled(samples: dict[str, list[str]], found: dict[str, Any]) -> None:
    random.seed(42)
    for texts in samples.values():
        random.shuffle(texts)
    assert texts_by_class(found, "train") == {one: texts[:TRAIN] for one, texts in samples.items()}
    assert texts_by_class(found, "test") == {one: texts[TRAIN : TRAIN + TEST] for one, texts in samples.items()}


def test_a_class_with_too_few_texts(drawn: Any) -> None:
    """The reference leaves it out; mode fixed takes what there is, if that is enough to measure, evenly."""
    name = f"{BIOS}_class_set1"
    assert drawn["reference", name]["left_out"] == {"9": "12 and 0 texts to train and test on"}
    assert drawn["fixed", name]["left_out"] == {}
    counts = Counter(label for _, label, _ in drawn["fixed", name]["rows"])
    assert counts == dict.fromkeys("0126", TRAIN + TEST) | {"9": TRAIN + 10}


def test_all_eight_are_there(drawn: Any) -> None:
    assert len(REFERENCE) == 8
    assert len({name for _, name in drawn}) == 8


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """600 rows of three classes and two attributes, some texts twice, as a file of any kind."""

    def make(name: str = "rows.jsonl", start: int = 0) -> str:
        made = [
            {"title": f"title {n + start}", "body": "ab" * (n % 7), "kind": "xyz"[n % 3], "who": n % 2}
            for n in [*range(550), *range(50)]
        ]
        path = tmp_path / name
        match path.suffix:
            case ".jsonl":
                path.write_text("\n".join(map(json.dumps, made)))
            case ".parquet":
                path.write_bytes(parquet({key: [row[key] for row in made] for key in made[0]}))
            case ".csv":
                with path.open("w", newline="") as file:
                    csv.writer(file).writerows(list(row.values()) for row in made)
        return str(path)

    return make


def config(source: str, **settings: Any) -> LabelledConfig:
    named = {"text": ["title", "body"], "label": "kind"} if not source.endswith("csv") else {"text": [0, 1], "label": 2}
    return LabelledConfig.parse({"name": "mine", "source": source} | named | settings)


FEW = Draw(train_size=100, test_size=40)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet", "rows.csv"])
def test_files_of_all_kinds_give_the_same(write: Callable[..., str], name: str) -> None:
    found = draw(config(write(name)), FEW)
    assert found == draw(config(write("other.jsonl")), FEW)
    assert found.classes == ["x", "y", "z"]
    assert Counter(row.label for row in found.of("train")) == dict.fromkeys("xyz", 50)
    assert Counter(row.label for row in found.of("test")) == dict.fromkeys("xyz", 20)
    assert len(set(found.texts)) == len(found.texts)
    for row in found.rows:
        title, _, body = row.text.partition("\n")
        assert len(body) % 2 == 0
        assert row.label == "xyz"[int(title.split()[1]) % 3]


def test_a_text_is_on_the_same_side_in_every_draw(write: Callable[..., str]) -> None:
    everything = Draw(train_size=10_000, test_size=10_000)
    mine = config(write(), test_share=0.3)
    first, again = draw(mine, everything), draw(mine, Draw(10_000, 10_000, seed=1))
    assert {row.text for row in first.of("test")} == {row.text for row in again.of("test")}
    assert first.rows != again.rows
    assert 0.2 < len(first.of("test")) / len(first.rows) < 0.4


def test_test_texts_from_another_file_are_never_training_texts(write: Callable[..., str]) -> None:
    found = draw(config(write(), test=write("test.jsonl", start=308)), Draw(10_000, 10_000))
    assert not {row.text for row in found.of("train")} & {row.text for row in found.of("test")}
    assert all(int(row.text.split()[1]) >= 550 for row in found.of("test"))


def test_attributes_are_even_within_a_class(write: Callable[..., str]) -> None:
    found = draw(config(write(), attribute="who", classes=["z", "x"]), FEW)
    assert found.classes == ["z", "x"]
    counts = Counter((row.label, row.attribute) for row in found.of("train"))
    assert counts == {(label, who): 25 for label in "xz" for who in "01"}


@pytest.mark.parametrize("name", ["toy_profession", "toy_category"])
def test_the_toys_texts_were_never_trained_on(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "TOY_DOCUMENTS", 6000)
    kind = "biography" if name == "toy_profession" else "review"
    found = draw(KNOWN[name], Draw(40, 20))
    names, attributes = (toy.PROFESSIONS, toy.GENDERS) if kind == "biography" else (toy.CATEGORIES, toy.SENTIMENTS)
    assert set(found.classes) == set(names)
    assert all(heldout_score(text) < toy.HELDOUT_SHARE for text in found.texts)
    made_for_training = {d.text for d in toy.documents(0, 4000, [kind])}
    assert not made_for_training.intersection(found.texts)
    counts = Counter((row.label, row.attribute) for row in found.of("test"))
    assert counts == {(label, attribute): 5 for label in names for attribute in attributes}


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"label": "knd"}, "no column 'knd'; did you mean 'kind'?"),
        ({"classes": ["x", "w"]}, "1 of its classes have enough texts; 'w' has 0 and 0"),
        ({"label": "title"}, "more than 50 values"),
        ({"source": "nowhere.jsonl"}, "no file 'nowhere.jsonl'"),
        ({"take": "first"}, "take: first needs classes"),
        ({"source": "toy"}, "biography and review, not None"),
    ],
)
def test_refusals(write: Callable[..., str], settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?")):
        draw(config(**{"source": write()} | settings), FEW)


@pytest.fixture
def testbed(toy_cache: Path, tmp_path: Path) -> Testbed:
    def load() -> Any:
        raise AssertionError("labelled texts need no model")

    return Testbed(Cache.open(toy_cache), "h", load, Artifacts(tmp_path / "a", {}), 2, torch.device("cpu"))


def test_texts_are_drawn_once(
    write: Callable[..., str], testbed: Testbed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = config(write())
    work = stored.work_of(mine, FEW)
    assert not testbed.artifacts.has(work.kind, work.key)
    found = stored.labelled_texts(testbed, mine, FEW)
    assert found == draw(mine, FEW)
    monkeypatch.setattr(rows, "read_rows", None)
    assert stored.labelled_texts(testbed, mine, FEW) == found
    moved = tmp_path / "moved.jsonl"
    Path(mine.source).rename(moved)
    assert stored.work_of(config(str(moved), name="called otherwise"), FEW) == work
    moved.write_text(moved.read_text() + "\n")
    assert stored.work_of(config(str(moved)), FEW) != work
