"""Word lists: `words.txt` by part of speech, and cities with facts about each."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from saepipe.data.cache.heldout_split import heldout_score

_HERE = Path(__file__).parent


class City(NamedTuple):
    """A city and the facts that biographies state about it."""

    name: str
    country: str
    language: str
    continent: str


def _read_words() -> dict[str, tuple[str, ...]]:
    sections = (_HERE / "words.txt").read_text("utf-8").split("[")[1:]
    named = (section.split("]") for section in sections)
    return {name: tuple(words.split()) for name, words in named}


def _read_cities() -> tuple[City, ...]:
    lines = (_HERE / "cities.txt").read_text("utf-8").splitlines()
    return tuple(City(*line.split()) for line in lines if not line.startswith("#"))


WORD_SECTIONS = _read_words()
"""Part of speech -> words, all lower case. Each of them occurs in narratives."""

WORDS = tuple(sorted({word for words in WORD_SECTIONS.values() for word in words}))
"""Words that may occur in spelling documents."""

SPELLED_ONLY_WORDS = tuple(word for word in WORDS if heldout_score(word) < 0.1)
"""Words whose first letter no document states. They are spelled out, so that a model can still infer it."""

ASKED_WORDS = tuple(word for word in WORDS if heldout_score(word) >= 0.1)
"""Words whose first letter is stated in spelling documents."""

CITIES = _read_cities()
