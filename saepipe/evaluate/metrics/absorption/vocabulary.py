"""Words whose first letter is asked for: entries of the tokenizer's vocabulary, each a single token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from string import ascii_lowercase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


LETTERS = ascii_lowercase
"""The 26 letters, in the order of a probe's outputs."""

_WORD = re.compile(r" ?[A-Za-z]+")
_SPACE = "\u2581"
"""Sentencepiece's character for the space before a word."""


@dataclass(frozen=True)
class Word:
    """A word of the tokenizer's vocabulary."""

    text: str
    """ASCII letters, with a leading space if the token begins with one"""
    token: int

    @property
    def letter(self) -> str:
        return self.stem[0]

    @property
    def stem(self) -> str:
        """Common part of the word's forms (` pen`, `Pen`, `PEN`)."""
        return self.text.strip().lower()


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[Word]:
    """Returns all entries that are ASCII letters with at most one leading space, by token id."""
    names = {token: name for name, token in tokenizer.get_vocab().items()}
    tokens = sorted(names)
    texts = tokenizer.batch_decode([[token] for token in tokens])
    words = []
    for token, text in zip(tokens, texts, strict=True):
        # Decoded alone, a sentencepiece token loses its leading space.
        spaced = f" {text}" if names[token].startswith(_SPACE) and not text.startswith(" ") else text
        if _WORD.fullmatch(spaced):
            words.append(Word(spaced, token))
    return words


def lookup(texts: Iterable[str], words: Sequence[Word]) -> list[Word]:
    """Returns the `words` listed in `texts`, ignoring a leading space; of two forms, the one with a leading space."""
    by_text = {word.text.strip(): word for word in sorted(words, key=lambda word: word.text.startswith(" "))}
    return [by_text[text] for text in dict.fromkeys(texts) if text in by_text]


def sample_words(words: Sequence[Word], num_words: int | None, seed: int) -> list[Word]:
    """Samples at most `num_words`, one per letter in turn, so that rare letters keep their words; keeps the order."""
    if num_words is None or num_words >= len(words):
        return list(words)
    random = Random(f"{seed}/words")
    by_letter = [[word for word in words if word.letter == letter] for letter in LETTERS]
    turns = zip_longest(*(random.sample(group, len(group)) for group in by_letter))
    tokens = {word.token for word in [word for turn in turns for word in turn if word][:num_words]}
    return [word for word in words if word.token in tokens]


def split_words(words: Sequence[Word], test_share: float, seed: int, *, by_stem: bool) -> tuple[list[Word], list[Word]]:
    """Splits words into train and test words.

    Args:
        words: the words to split.
        test_share: test share of each letter's stems, or of all words if not `by_stem`.
        seed: seed of the sampling.
        by_stem: whether all forms of a word (` pen`, `Pen`) go to the same side, so that none is tested after another
            was fitted, and each letter is split separately. If not, all words are shuffled and cut, as SAEBench does.
    """
    random = Random(f"{seed}/split")
    if not by_stem:
        shuffled = random.sample(words, len(words))
        cut = int(len(shuffled) * (1 - test_share))
        return shuffled[:cut], shuffled[cut:]
    test_stems = set()
    for letter in LETTERS:
        stems = sorted({word.stem for word in words if word.letter == letter})
        test_stems |= set(random.sample(stems, round(test_share * len(stems))))
    return [w for w in words if w.stem not in test_stems], [w for w in words if w.stem in test_stems]
