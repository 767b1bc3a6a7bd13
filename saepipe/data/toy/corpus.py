"""Text with known labels: biographies, reviews, spelling and narratives, each a pure function of (seed, index)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from random import Random
from typing import Literal, TypeAlias, TypeVar, get_args

from saepipe.data.errors import ConfigError
from saepipe.data.toy.grammar import Alternatives, Grammar, alternatives, expand, parse_grammar
from saepipe.data.toy.words import ASKED_WORDS, CITIES, WORD_SECTIONS, WORDS

Kind = Literal["biography", "review", "spelling", "narrative"]
Draw: TypeAlias = Callable[[], float]
T = TypeVar("T")

KINDS: tuple[Kind, ...] = get_args(Kind)
PROFESSIONS = ("nurse", "surgeon", "teacher", "lawyer", "journalist", "photographer", "programmer", "chef")
GENDERS = ("female", "male")
CATEGORIES = ("book", "electronics", "kitchen", "toy", "clothing", "garden")
SENTIMENTS = ("positive", "negative")

_PRONOUNS = {
    "female": {"he": "she", "He": "She", "his": "her", "His": "Her", "him": "her"},
    "male": {"he": "he", "He": "He", "his": "his", "His": "His", "him": "him"},
}


@dataclass(frozen=True)
class Document:
    """A text, its kind, and its labels.

    Labels by kind: biography `profession, gender, city`; review `category, sentiment`;
    spelling `form` (first_letter, starts_with, spelled) and `words` (separated by spaces);
    narrative `gender, companion, treasure, home`.
    """

    text: str
    kind: Kind
    labels: Mapping[str, str]


def documents(
    seed: int = 0,
    num_documents: int | None = None,
    kinds: Sequence[Kind] = KINDS,
    *,
    correlation: float = 0.0,
    start: int = 0,
) -> Iterator[Document]:
    """Yields documents `start, start + 1, ...` of the stream that the other arguments define; endless by default.

    Args:
        kinds: the kind of each document is drawn uniformly from these.
        correlation: share of the biographies whose gender is determined by the profession, and of the reviews whose
            sentiment is determined by the category (alternately female and male, positive and negative); 0 makes them
            independent.

    Raises:
        ConfigError: if a kind does not exist, no kind is given, or the correlation is outside [0, 1].
    """
    if not kinds or set(kinds) - set(KINDS):
        raise ConfigError(f"invalid kinds: {list(kinds)}", hint=f"choose one or more of {', '.join(KINDS)}")
    if not 0 <= correlation <= 1:
        raise ConfigError(f"correlation is {correlation}", hint="give a share between 0 and 1")
    indices = count(start) if num_documents is None else range(start, start + num_documents)
    return (document(seed, index, kinds, correlation=correlation) for index in indices)


def document(seed: int, index: int, kinds: Sequence[Kind] = KINDS, *, correlation: float = 0.0) -> Document:
    """Generates document `index` of the stream `seed`, a pure function of the arguments."""
    draw = Random(f"{seed}/{index}").random
    kind = _pick(kinds, draw)
    match kind:
        case "biography":
            return _biography(draw, correlation)
        case "review":
            return _review(draw, correlation)
        case "spelling":
            return _spelling(draw)
        case "narrative":
            return _narrative(draw)


def _biography(draw: Draw, correlation: float) -> Document:
    profession, gender = _label_pair(PROFESSIONS, GENDERS, draw, correlation)
    city = _pick(CITIES, draw)
    first = expand(_GRAMMAR, f"first.{gender}", draw)
    bound = {"profession": profession, "first": first, "city": city.name, "country": city.country}
    rules = {
        **_GRAMMAR,
        **_literal({**bound, **_PRONOUNS[gender], "language": city.language}),
        **_narrowed(profession, "workplace", "work", "training", "tool", "honour"),
        **_narrowed(gender, "elder", "spouse"),
    }
    labels = {"profession": profession, "gender": gender, "city": city.name}
    return Document(expand(rules, "biography", draw), "biography", labels)


def _review(draw: Draw, correlation: float) -> Document:
    category, sentiment = _label_pair(CATEGORIES, SENTIMENTS, draw, correlation)
    item = expand(_GRAMMAR, f"item.{category}", draw)
    rules = {
        **_GRAMMAR,
        **_literal({"item": item}),
        **_narrowed(category, "part", "use"),
        **_narrowed(sentiment, "verdict", "outcome", "ending", "doubt"),
    }
    labels = {"category": category, "sentiment": sentiment}
    return Document(expand(rules, "review", draw), "review", labels)


def _spelling(draw: Draw) -> Document:
    form = _pick(("first_letter", "first_letter", "first_letter", "spelled", "starts_with"), draw)
    spelled_out = form == "spelled"
    num_words = int(3 + draw() * (5 if spelled_out else 10))
    words = [_pick(WORDS if spelled_out else ASKED_WORDS, draw) for _ in range(num_words)]
    lines = [
        expand({**_GRAMMAR, **_literal({"word": word, "letter": word[0].upper(), "letters": spell(word)})}, form, draw)
        for word in words
    ]
    opening = _pick(("", "\n"), draw)
    return Document(opening + "\n".join(lines), "spelling", {"form": form, "words": " ".join(words)})


def _narrative(draw: Draw) -> Document:
    gender = _pick(GENDERS, draw)
    bound = {
        "hero": expand(_GRAMMAR, f"first.{gender}", draw),
        "friend": expand(_GRAMMAR, f"first.{_pick(GENDERS, draw)}", draw),
        "companion": _pick(WORD_SECTIONS["animal"], draw),
        "treasure": _pick(WORD_SECTIONS["thing"], draw),
        "home": _pick(WORD_SECTIONS["place"], draw),
        "goal": _pick(WORD_SECTIONS["place"], draw),
    }
    rules = {**_GRAMMAR, **_literal({**bound, **_PRONOUNS[gender]})}
    labels = {"gender": gender, **{key: bound[key] for key in ("companion", "treasure", "home")}}
    return Document(expand(rules, "narrative", draw), "narrative", labels)


def spell(word: str) -> str:
    """ "pen" -> "P E N"."""
    return " ".join(word.upper())


def _pick(options: Sequence[T], draw: Draw) -> T:
    return options[int(draw() * len(options))]


def _label_pair(firsts: Sequence[str], seconds: Sequence[str], draw: Draw, correlation: float) -> tuple[str, str]:
    """Draws two labels, each uniform; in a share `correlation` of the draws the first determines the second."""
    first, tied = int(draw() * len(firsts)), draw() < correlation
    free = int(draw() * len(seconds))
    return firsts[first], seconds[first % len(seconds) if tied else free]


def _literal(texts: Mapping[str, str]) -> Grammar:
    """Rules that give each symbol a single alternative."""
    return {symbol: ((text,),) for symbol, text in texts.items()}


def _narrowed(label: str, *symbols: str) -> Grammar:
    """Rules that expand `work` as `work.nurse`, for the label `nurse`."""
    return {symbol: _GRAMMAR[f"{symbol}.{label}"] for symbol in symbols}


def _load_grammar() -> Grammar:
    folder = Path(__file__).parent
    rules: dict[str, Alternatives] = {name: alternatives(*words) for name, words in WORD_SECTIONS.items()}
    for kind in KINDS:
        rules.update(parse_grammar((folder / f"{kind}.txt").read_text("utf-8")))
    return rules


_GRAMMAR = _load_grammar()
