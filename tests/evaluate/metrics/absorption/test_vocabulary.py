"""Words of two kinds of tokenizer: finding, sampling and splitting them."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from saepipe.data.toy import MODEL_DIR, WORDS
from saepipe.evaluate.metrics.absorption.prompts import single_tokens
from saepipe.evaluate.metrics.absorption.vocabulary import LETTERS, Word, lookup, sample_words, split_words, vocabulary

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def toy() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODEL_DIR)


@pytest.fixture(scope="module")
def sentencepiece() -> PreTrainedTokenizerBase:
    """Tokenizer whose tokens include a leading space, written as an underline; decoding a token alone loses it."""
    pieces = ["<unk>", "\n", ":", "\u2581", "\u2581pen", "pen", "\u2581Pen", "\u2581has", "\u2581the", "\u2581first"]
    pieces += ["\u2581letter", "\u2581P", "\u25813", "\u2581d\u00e9j\u00e0", "\u2581\u2581", *"abehinprstfl"]
    core = Tokenizer(models.Unigram([(piece, -float(i)) for i, piece in enumerate(pieces)], unk_id=0))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    core.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")  # type: ignore[no-untyped-call]


def words(*texts: str) -> list[Word]:
    return [Word(text, token) for token, text in enumerate(texts)]


def test_the_vocabulary_is_every_entry_of_letters(toy) -> None:
    texts = [toy.decode([token]) for token in range(len(toy))]
    expected = [
        (text, token) for token, text in enumerate(texts) if text.removeprefix(" ").isalpha() and text.isascii()
    ]
    assert [(word.text, word.token) for word in vocabulary(toy)] == expected
    assert {f" {word}" for word in WORDS} <= {word.text for word in vocabulary(toy)}


def test_a_space_lost_in_decoding_is_restored(sentencepiece) -> None:
    assert sentencepiece.decode([4]) == "pen"
    texts = {word.token: word.text for word in vocabulary(sentencepiece)}
    assert texts[4] == " pen"
    assert texts[5] == "pen"
    assert all(re.fullmatch(" ?[A-Za-z]+", text) for text in texts.values())
    assert not {0, 1, 2, 3, 12, 13, 14} & texts.keys()


def test_words_split_in_a_prompt_are_left_out(sentencepiece) -> None:
    single = single_tokens(vocabulary(sentencepiece), sentencepiece, bos_id=0)
    assert Word(" pen", 4) in single
    assert Word("pen", 5) in single
    split = Word(" net", 4)  # its letters are separate tokens
    assert single_tokens([split], sentencepiece, bos_id=0) == []


def test_a_word_has_a_stem_and_a_letter() -> None:
    assert (Word(" Pen", 0).stem, Word(" Pen", 0).letter) == ("pen", "p")


def test_lookup_prefers_the_form_with_a_leading_space() -> None:
    selected = lookup(["pen", "axe", "none", "pen"], words("pen", " pen", "axe", " Axe"))
    assert [word.text for word in selected] == [" pen", "axe"]


def test_words_are_sampled_letter_by_letter_in_turn() -> None:
    many = words(*(f" {letter}{chr(97 + i)}" for letter, n in (("a", 20), ("b", 20), ("z", 3)) for i in range(n)))
    sampled = sample_words(many, 23, seed=1)
    assert Counter(word.letter for word in sampled) == {"a": 10, "b": 10, "z": 3}
    assert sampled == sample_words(many, 23, seed=1) != sample_words(many, 23, seed=2)
    assert sample_words(many, None, seed=1) == sample_words(many, 43, seed=1) == many


def test_forms_of_a_word_go_to_one_side_and_every_letter_to_both() -> None:
    stems = [f"{letter}{chr(97 + i)}" for letter in LETTERS for i in range(10)]
    many = words(*(form for stem in stems for form in (stem, f" {stem}", f" {stem.title()}")))
    train, test = split_words(many, 0.2, seed=3, by_stem=True)
    assert not {word.stem for word in train} & {word.stem for word in test}
    assert Counter(word.letter for word in test) == dict.fromkeys(LETTERS, 6)
    assert sorted(train + test, key=lambda word: word.token) == many
    assert (train, test) == split_words(many, 0.2, seed=3, by_stem=True) != split_words(many, 0.2, seed=4, by_stem=True)


def test_the_reference_splits_all_words_at_once() -> None:
    many = words(*(f" {letter}{chr(97 + i)}" for letter in LETTERS for i in range(10)))
    train, test = split_words(many, 0.2, seed=3, by_stem=False)
    assert (len(train), len(test)) == (208, 52)
    assert {word.token for word in train + test} == {word.token for word in many}
