"""Expansion of grammars into texts."""

from __future__ import annotations

from random import Random

import pytest

from saepipe.data.toy.grammar import alternatives, expand, parse_grammar

pytestmark = pytest.mark.quick

TEXT = """# a comment
[line]
 {word} and {word}

[word]
x
y
"""


def test_slots_are_filled_with_every_alternative() -> None:
    grammar = parse_grammar(TEXT)
    draw = Random(0).random
    assert {expand(grammar, "line", draw) for _ in range(200)} == {f" {a} and {b}" for a in "xy" for b in "xy"}


def test_the_text_depends_only_on_the_random_numbers() -> None:
    grammar = parse_grammar(TEXT)
    draws = iter([0.0, 0.99, 0.0])
    assert expand(grammar, "line", lambda: next(draws)) == " y and x"


@pytest.mark.parametrize(
    ("noun", "expected"),
    [
        ("apple", "an apple"),
        ("pear", "a pear"),
        ("umbrella", "an umbrella"),
        ("unicycle", "a unicycle"),
        ("honest man", "an honest man"),
        ("house", "a house"),
    ],
)
def test_the_article_agrees_with_the_sampled_word(noun: str, expected: str) -> None:
    grammar = {"phrase": alternatives("a {noun}"), "noun": alternatives(noun)}
    assert expand(grammar, "phrase", Random(0).random) == expected


def test_a_missing_symbol_is_an_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        expand({"line": alternatives("to {nowhere} now")}, "line", Random(0).random)
