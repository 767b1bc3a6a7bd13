"""Pairs of prompts: a base that is intervened on, and a source whose entity lends it its latents."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from random import Random

from saepipe.evaluate.metrics.ravel.entity_prompts import Prompt
from saepipe.evaluate.metrics.ravel.known_prompts import KnownPrompts

_Answer = tuple[bool, tuple[int, ...]]
"""Whether a space comes before a label, and the label's tokens."""


@dataclass(frozen=True)
class Pair:
    """Two prompts that ask for one attribute, with different labels."""

    base: Prompt
    source: Prompt
    attribute: int
    """number of the attribute whose latents are swapped"""
    is_test: bool

    @property
    def is_cause(self) -> bool:
        """True if the attribute that is asked for is the one whose latents are swapped."""
        return self.base.attribute == self.attribute

    @property
    def target(self) -> tuple[int, ...]:
        """The right continuation of the base: the source's label if the answer is to change, else its own."""
        return (self.source if self.is_cause else self.base).label


@dataclass(frozen=True)
class PairSampling:
    """Settings that decide which pairs there are."""

    max_entities: int
    min_entities: int
    min_accuracy: float
    test_share: float
    num_pairs: int
    seed: int


def sample_pairs(known: KnownPrompts, num_attributes: int, sampling: PairSampling) -> tuple[list[Pair], dict[int, str]]:
    """Samples pairs within the train and within the test entities, so that no tested entity was trained on.

    For each attribute, num_pairs prompts that ask for it (all, if there are fewer) each get a source at random among
    the prompts of the same attribute whose label differs. As many pairs are made in the same way for the other
    attributes together, in equal shares: their answers must not change.

    Returns:
        The pairs, and a reason for each attribute that cannot be measured.
    """
    parts = [_by_attribute(known.prompts, entities) for entities in split_entities(known.prompts, sampling)]
    reasons = {
        attribute: reason
        for attribute in range(num_attributes)
        if (reason := why_unmeasurable(known, attribute, [prompts[attribute] for prompts in parts], sampling))
    }
    measurable = [attribute for attribute in range(num_attributes) if attribute not in reasons]
    if len(measurable) == 1:
        reasons[measurable.pop()] = (
            "no other attribute of its class can be measured, so there is nothing to leave alone"
        )
    pairs = []
    for is_test, prompts in enumerate(parts):
        share = sampling.test_share if is_test else 1 - sampling.test_share
        random, num_pairs = Random(f"{sampling.seed}/{is_test}"), max(1, round(sampling.num_pairs * share))
        for attribute in measurable:
            for base, source in _pairs_for(attribute, measurable, prompts, num_pairs, random):
                pairs.append(Pair(base, source, attribute, bool(is_test)))
    return pairs, reasons


def split_entities(prompts: Sequence[Prompt], sampling: PairSampling) -> tuple[set[int], set[int]]:
    """Returns the train and the test entities, among the max_entities with the most prompts answered correctly."""
    counts = Counter(prompt.entity for prompt in prompts)
    entities = sorted(counts, key=lambda entity: (-counts[entity], entity))[: sampling.max_entities]
    Random(sampling.seed).shuffle(entities)
    num_test = round(len(entities) * sampling.test_share)
    return set(entities[num_test:]), set(entities[:num_test])


def why_unmeasurable(
    known: KnownPrompts, attribute: int, parts: Sequence[Sequence[Prompt]], sampling: PairSampling
) -> str | None:
    """Returns why the model does not know an attribute well enough for pairs; None if it does.

    Args:
        known: what the model answers correctly.
        attribute: number of the attribute.
        parts: its prompts about train and about test entities.
        sampling: the limits.
    """
    accuracy = known.accuracy(attribute)
    if accuracy < sampling.min_accuracy:
        return f"the model answers {accuracy:.1%} of its prompts correctly (required: {sampling.min_accuracy:.0%})"
    for part, prompts in zip(("train", "test"), parts, strict=True):
        num_entities = len({prompt.entity for prompt in prompts})
        if num_entities < sampling.min_entities:
            return f"the model knows it of {num_entities} {part} entities (required: {sampling.min_entities})"
        if not any(_differ(*answers) for answers in combinations(_answers(prompts), 2)):
            return f"all {part} entities that the model knows it of have the same label"
    return None


def _by_attribute(prompts: Sequence[Prompt], entities: set[int]) -> defaultdict[int, list[Prompt]]:
    by_attribute: defaultdict[int, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        if prompt.entity in entities:
            by_attribute[prompt.attribute].append(prompt)
    return by_attribute


def _pairs_for(
    attribute: int, measurable: Sequence[int], prompts: Mapping[int, list[Prompt]], num_pairs: int, random: Random
) -> Iterator[tuple[Prompt, Prompt]]:
    others = [other for other in measurable if other != attribute]
    yield from _with_sources(prompts[attribute], num_pairs, random)
    for other in others:
        yield from _with_sources(prompts[other], math.ceil(num_pairs / len(others)), random)


def _with_sources(prompts: Sequence[Prompt], num_pairs: int, random: Random) -> Iterator[tuple[Prompt, Prompt]]:
    sources = {
        answer: [prompt for prompt in prompts if _differ(answer, _answer(prompt))] for answer in _answers(prompts)
    }
    bases = [prompt for prompt in prompts if sources[_answer(prompt)]]
    for base in random.sample(bases, min(num_pairs, len(bases))):
        yield base, random.choice(sources[_answer(base)])


def _answers(prompts: Sequence[Prompt]) -> list[_Answer]:
    return list(dict.fromkeys(map(_answer, prompts)))


def _answer(prompt: Prompt) -> _Answer:
    return prompt.spaced, prompt.label


def _differ(answer: _Answer, other: _Answer) -> bool:
    """Returns whether two answers are written alike and neither begins with the other.

    So a prompt can be continued by at most one of them, and the tokens of the one are those that the other's prompt
    would need.
    """
    (spaced, label), (other_spaced, other_label) = answer, other
    shorter = min(len(label), len(other_label))
    return spaced == other_spaced and label[:shorter] != other_label[:shorter]
