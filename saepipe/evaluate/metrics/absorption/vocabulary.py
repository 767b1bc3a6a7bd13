"""Words to ask the first letter of: the tokenizer's own, each a single token."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from random import Random
from string import ascii_lowercase

from transformers import PreTrainedTokenizerBase

LETTERS = ascii_lowercase
"""The 26, in the order of a probe's outputs."""

_WORD = re.compile(r" ?[A-Za-z]+")
_SPACE = "\u2581"
"""How sentencepiece writes the space before a word."""


@dataclass(frozen=True)
class Word:
    """An entry of a vocabulary."""

    text: str
    """ASCII letters, after a space where the token begins with one"""
    token: int

    @property
    def letter(self) -> str:
        return self.stem[0]

    @property
    def stem(self) -> str:
        """What its forms (` pen`, `Pen`, `PEN`) have in common."""
        return self.text.strip().lower()


def vocabulary(tokenizer: PreTrainedTokenizerBase) -> list[Word]:
    """All entries that are ASCII letters, with or without one space before them, by token id."""
    names = {token: name for name, token in tokenizer.get_vocab().items()}
    tokens = sorted(names)
    texts = tokenizer.batch_decode([[token] for token in tokens])
    words = []
    for token, text in zip(tokens, texts, strict=True):
        # Decoded alone, a sentencepiece token loses the space that it stands for.
        spaced = f" {text}" if names[token].startswith(_SPACE) and not text.startswith(" ") else text
        if _WORD.fullmatch(spaced):
            words.append(Word(spaced, token))
    return words


def listed(texts: Iterable[str], words: Sequence[Word]) -> list[Word]:
    """Of `words` those whose text, the space before it aside, is listed; of two forms the one after a space."""
    by_text = {word.text.strip(): word for word in sorted(words, key=lambda word: word.text.startswith(" "))}
    return [by_text[text] for text in dict.fromkeys(texts) if text in by_text]


def drawn(words: Sequence[Word], num_words: int | None, seed: int) -> list[Word]:
    """At most `num_words`, letter by letter in turn, so that rare letters keep theirs; in the order they came."""
    if num_words is None or num_words >= len(words):
        return list(words)
    random = Random(f"{seed}/words")
    of_letter = [[word for word in words if word.letter == letter] for letter in LETTERS]
    turns = zip_longest(*(random.sample(group, len(group)) for group in of_letter))
    chosen = {word.token for word in [word for turn in turns for word in turn if word][:num_words]}
    return [word for word in words if word.token in chosen]


def parted(words: Sequence[Word], test_share: float, seed: int, *, by_stem: bool) -> tuple[list[Word], list[Word]]:
    """Words to fit on and words to test on.

    Args:
        words: to part.
        test_share: of each letter's stems; of all words where not by stem.
        seed: of the draw.
        by_stem: all forms of a word (` pen`, `Pen`) go to one side, so that none is tested on what was fitted; and
            each letter is parted on its own. Else all words are shuffled and cut, as SAEBench does.
    """
    random = Random(f"{seed}/split")
    if not by_stem:
        shuffled = random.sample(words, len(words))
        cut = int(len(shuffled) * (1 - test_share))
        return shuffled[:cut], shuffled[cut:]
    test = set()
    for letter in LETTERS:
        stems = sorted({word.stem for word in words if word.letter == letter})
        test |= set(random.sample(stems, round(test_share * len(stems))))
    return [word for word in words if word.stem not in test], [word for word in words if word.stem in test]
