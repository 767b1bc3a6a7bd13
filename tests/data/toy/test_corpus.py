"""Generated documents: pure functions of their arguments, whose texts agree with their labels."""

from __future__ import annotations

import re
from collections import Counter
from itertools import islice
from string import ascii_lowercase

import numpy as np
import pytest
from scipy.stats import chi2_contingency

from saepipe.data.cache.heldout_split import heldout_score
from saepipe.data.errors import ConfigError
from saepipe.data.toy import (
    ASKED_WORDS,
    CATEGORIES,
    CITIES,
    GENDERS,
    KINDS,
    PROFESSIONS,
    SENTIMENTS,
    SPELLED_ONLY_WORDS,
    WORDS,
    document,
    documents,
)

PAIRS = [
    ("biography", "profession", "gender", PROFESSIONS, GENDERS),
    ("review", "category", "sentiment", CATEGORIES, SENTIMENTS),
]


def test_a_document_is_a_pure_function_of_seed_and_index() -> None:
    stream = list(documents(7, 60))
    assert stream == [document(7, index) for index in range(60)]
    assert list(documents(7, 20, start=40)) == stream[40:]
    assert list(islice(documents(7, start=40), 20)) == stream[40:]
    assert all(a.text != b.text for a, b in zip(stream, documents(8, 60), strict=True))


def test_kinds_are_mixed_evenly_and_can_be_chosen() -> None:
    counts = Counter(d.kind for d in documents(0, 4000))
    assert set(counts) == set(KINDS)
    assert all(abs(count - 1000) < 5 * np.sqrt(4000 * 0.25 * 0.75) for count in counts.values())
    assert {d.kind for d in documents(0, 50, ("review",))} == {"review"}


@pytest.mark.parametrize("wrong", [{"kinds": ("poem",)}, {"kinds": ()}, {"correlation": 1.5}])
def test_invalid_settings_are_refused(wrong) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        documents(0, 1, **wrong)


def test_no_document_occurs_twice() -> None:
    texts = [d.text for d in documents(0, 20_000)]
    assert len(set(texts)) == len(texts)


def test_a_tenth_of_the_documents_is_held_out() -> None:
    held_out = sum(heldout_score(d.text) < 0.1 for d in documents(0, 10_000))
    assert abs(held_out - 1000) < 5 * np.sqrt(10_000 * 0.1 * 0.9)


@pytest.mark.parametrize(("kind", "first", "second", "firsts", "seconds"), PAIRS)
def test_labels_are_independent_unless_correlated(kind, first, second, firsts, seconds) -> None:
    def table(correlation: float) -> np.ndarray:
        pairs = Counter(
            (d.labels[first], d.labels[second]) for d in documents(3, 4000, (kind,), correlation=correlation)
        )
        return np.array([[pairs[a, b] for b in seconds] for a in firsts])

    free, half, tied = table(0.0), table(0.5), table(1.0)
    assert chi2_contingency(free).pvalue > 1e-4
    assert free.min() > 0.7 * 4000 / free.size
    assert ((tied > 0).sum(axis=1) == 1).all(), "at correlation 1 the first label determines the second"
    share_tied = half[tied > 0].sum() / half.sum()
    assert abs(share_tied - 0.75) < 5 * np.sqrt(0.75 * 0.25 / 4000)


def test_biographies_agree_with_their_labels() -> None:
    other = {"female": r"\b(he|him|his|He|His)\b", "male": r"\b(she|her|She|Her)\b"}
    num_stated = 0
    for d in documents(0, 1000, ("biography",)):
        assert not re.search(other[d.labels["gender"]], d.text)
        named = [p for p in PROFESSIONS if re.search(rf"\b{p}\b", d.text)]
        assert named in ([], [d.labels["profession"]])
        num_stated += bool(named)
    assert 0.1 < num_stated / 1000 < 0.4, "the profession must mostly be inferred"


def test_cities_occur_only_with_their_own_country() -> None:
    countries = {city.name: city.country for city in CITIES}
    stated = 0
    for d in documents(0, 1000, ("biography",)):
        others = set(countries.values()) - {countries[d.labels["city"]]}
        assert not any(f" {country}" in d.text for country in others)
        stated += countries[d.labels["city"]] in d.text
    assert stated > 200


def test_spelling_documents_spell_correctly() -> None:
    patterns = {
        "first_letter": r" (\w+) has the first letter: ([A-Z])",
        "starts_with": r" The word (\w+) starts with the letter ([A-Z])\.",
        "spelled": r" (\w+) is spelled: ([A-Z](?: [A-Z])*)",
    }
    forms = Counter()
    for d in documents(0, 2000, ("spelling",)):
        form, words = d.labels["form"], d.labels["words"].split()
        matches = [re.fullmatch(patterns[form], line) for line in d.text.removeprefix("\n").split("\n")]
        assert all(matches)
        assert [m[1] for m in matches] == words
        letters = [m[2].replace(" ", "").lower() for m in matches]
        assert letters == (words if form == "spelled" else [word[0] for word in words])
        assert form == "spelled" or not set(words) & set(SPELLED_ONLY_WORDS)
        forms[form] += 1
    assert forms["first_letter"] > 1000
    assert set(forms) == set(patterns)


def test_every_word_occurs_in_ordinary_text_too() -> None:
    words = set()
    for d in documents(0, 8000, ("narrative",)):
        words.update(re.findall(r"[a-z]+", d.text))
    assert set(WORDS) <= words


def test_the_words_cover_the_alphabet() -> None:
    assert len(WORDS) >= 1200
    assert all(re.fullmatch("[a-z]+", word) for word in WORDS)
    assert set(ASKED_WORDS) | set(SPELLED_ONLY_WORDS) == set(WORDS)
    assert not set(ASKED_WORDS) & set(SPELLED_ONLY_WORDS)
    initials = Counter(word[0] for word in WORDS)
    assert min(initials[letter] for letter in ascii_lowercase) >= 7


def test_narratives_have_valid_labels_and_no_open_slots() -> None:
    for d in documents(0, 200, ("narrative",)):
        assert d.labels["gender"] in GENDERS
        assert d.labels["home"] in WORDS
        assert not re.search(r"\{|\}", d.text)
