"""Context-free grammars in plain text: a `[symbol]`, then one alternative per line, with `{symbol}` slots."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeAlias

Alternatives: TypeAlias = tuple[tuple[str, ...], ...]
"""Alternative texts of a symbol, each split at its slots: literal, symbol, literal, symbol, ..., literal."""

Grammar: TypeAlias = Mapping[str, Alternatives]

_HEADER = re.compile(r"\[([\w.]+)\]")
_SLOT = re.compile(r"\{([\w.]+)\}")
_A_BEFORE_VOWEL = re.compile(r"\b([Aa]) (?=[aeio]|u(?!ni|se|su|ti|ku)|hones|hour)")


def parse_grammar(text: str) -> dict[str, Alternatives]:
    """Parses a grammar. Lines starting with `#` are comments; leading spaces are part of a line."""
    lines: dict[str, list[str]] = {}
    for line in text.splitlines():
        if not line or line.startswith("#"):
            continue
        if header := _HEADER.fullmatch(line):
            current = lines.setdefault(header[1], [])
        else:
            current.append(line)
    return {symbol: alternatives(*options) for symbol, options in lines.items()}


def alternatives(*options: str) -> Alternatives:
    """Splits texts at their slots, as the alternatives of a symbol."""
    return tuple(tuple(_SLOT.split(option)) for option in options)


def expand(grammar: Grammar, symbol: str, random: Callable[[], float]) -> str:
    """Expands `symbol` into a text, filling each slot at random, and changes "a" to "an" before vowels.

    Args:
        random: uniform in [0, 1); the only source of randomness, because Python guarantees its sequence for ever.
    """
    return _A_BEFORE_VOWEL.sub(r"\1n ", _expand(grammar, symbol, random))


def _expand(grammar: Grammar, symbol: str, random: Callable[[], float]) -> str:
    options = grammar[symbol]
    parts = options[int(random() * len(options))]
    if len(parts) == 1:
        return parts[0]
    return "".join(_expand(grammar, part, random) if i % 2 else part for i, part in enumerate(parts))
