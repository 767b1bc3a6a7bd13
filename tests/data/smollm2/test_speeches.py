"""Passages of the speeches: whole paragraphs, none lost, in one fixed random order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from saepipe.data.smollm2.speeches import MIN_CHARACTERS, passages, write_documents

pytestmark = pytest.mark.quick

PARAGRAPHS = [f"Paragraph {number}. " + "Words follow words. " * 20 for number in range(30)]
SPEECH = "\n\n".join(PARAGRAPHS)


def test_passages_are_whole_paragraphs_and_none_is_lost() -> None:
    cut = list(passages(SPEECH))
    assert [part.strip() for part in "\n\n".join(cut).split("\n\n")] == [part.strip() for part in PARAGRAPHS]
    assert all(MIN_CHARACTERS <= len(passage) < MIN_CHARACTERS + 500 for passage in cut[:-1])


def test_documents_are_of_the_later_speeches_in_a_fixed_order(tmp_path: Path) -> None:
    speeches = tmp_path / "speeches"
    speeches.mkdir()
    for name in ("1960-Eisenhower-1", "1961-Kennedy-1", "2012-Obama-1"):
        (speeches / f"{name}.txt").write_text(SPEECH.replace("Paragraph", name))
    lines = write_documents(speeches, tmp_path / "a.jsonl").read_text().splitlines()
    texts = [json.loads(line)["text"] for line in lines]
    assert len(texts) == 2 * len(list(passages(SPEECH)))
    assert {text.split()[0] for text in texts} == {"1961-Kennedy-1", "2012-Obama-1"}
    assert sorted(texts) != texts
    assert write_documents(speeches, tmp_path / "b.jsonl").read_bytes() == (tmp_path / "a.jsonl").read_bytes()


def test_documents_are_written_once(tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    out.write_text("kept")
    assert write_documents(tmp_path, out).read_text() == "kept"
