"""Which entities are tested, and which prompts make a pair."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from saepipe.evaluate.metrics.ravel.entity_prompts import Prompt
from saepipe.evaluate.metrics.ravel.known_prompts import KnownPrompts
from saepipe.evaluate.metrics.ravel.swap_pairs import PairSampling, sample_pairs, split_entities

SAMPLING = PairSampling(max_entities=500, min_entities=5, min_accuracy=0.5, test_share=0.25, num_pairs=40, seed=0)


def prompt(entity: int, attribute: int, *label: int, template: int = 0, spaced: bool = True) -> Prompt:
    return Prompt(entity, attribute, (0, template, entity), 2, label, spaced)


@pytest.fixture
def known() -> KnownPrompts:
    """Returns three attributes of 40 entities, two templates each; the labels of the first are 1, 1 2, and 3."""
    labels = {0: [(1,), (1, 2), (3,)], 1: [(4,), (5,)], 2: [(6,), (7,)]}
    prompts = [
        prompt(e, a, *values[e % len(values)], template=t)
        for e in range(40)
        for a, values in labels.items()
        for t in (0, 1)
    ]
    return KnownPrompts(prompts, 40, [80, 80, 80])


def test_train_and_test_share_no_entity(known) -> None:
    pairs, reasons = sample_pairs(known, 3, SAMPLING)
    entities = [
        {entity for pair in pairs if pair.is_test == test for entity in (pair.base.entity, pair.source.entity)}
        for test in (False, True)
    ]
    assert reasons == {}
    assert entities[0].isdisjoint(entities[1])
    assert tuple(map(len, split_entities(known.prompts, SAMPLING))) == (30, 10)


def test_as_many_pairs_for_cause_as_for_isolation(known) -> None:
    pairs, _ = sample_pairs(known, 3, SAMPLING)
    counts = Counter((pair.attribute, pair.is_test, pair.is_cause) for pair in pairs)
    assert set(counts.values()) == {30, 10}
    others = Counter(pair.base.attribute for pair in pairs if pair.attribute == 0 and not pair.is_cause)
    assert others == {1: 20, 2: 20}


def test_pairs_ask_for_one_attribute_and_their_labels_cannot_be_mistaken(known) -> None:
    pairs, _ = sample_pairs(known, 3, SAMPLING)
    for pair in pairs:
        assert pair.base.attribute == pair.source.attribute
        assert pair.target == (pair.source if pair.is_cause else pair.base).label
        short, long = sorted((pair.base.label, pair.source.label), key=len)
        assert long[: len(short)] != short
    assert any(pair.base.label == (1, 2) for pair in pairs)


def test_labels_of_a_pair_are_written_alike(known) -> None:
    """After a quote the tokens of a label are others, here 10 more, than after a space."""
    quoted = [
        prompt(p.entity, p.attribute, *(token + 10 for token in p.label), template=2, spaced=False)
        for p in known.prompts
        if p.ids[1] == 0
    ]
    pairs, _ = sample_pairs(replace(known, prompts=[*known.prompts, *quoted]), 3, replace(SAMPLING, num_pairs=500))
    assert {pair.base.spaced for pair in pairs} == {True, False}
    assert all(pair.base.spaced == pair.source.spaced for pair in pairs)


def test_a_seed_decides_the_pairs(known) -> None:
    assert sample_pairs(known, 3, SAMPLING) == sample_pairs(known, 3, SAMPLING)
    assert sample_pairs(known, 3, SAMPLING) != sample_pairs(known, 3, replace(SAMPLING, seed=1))


def test_each_prompt_is_a_base_once(known) -> None:
    pairs, _ = sample_pairs(known, 3, replace(SAMPLING, num_pairs=10_000))
    for attribute in range(3):
        bases = [pair.base for pair in pairs if pair.attribute == attribute]
        assert len(bases) == len(set(bases)) == 3 * 80


def test_the_entities_that_the_model_knows_best_are_used(known) -> None:
    more = [prompt(entity, 1, 4 + entity % 2, template=2) for entity in range(20, 40)]
    train, test = split_entities([*known.prompts, *more], replace(SAMPLING, max_entities=20))
    assert train | test == set(range(20, 40))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_asked": [200, 80, 80]}, "answers 40.0% of its prompts correctly (required: 50%)"),
        ({"entities": range(36, 40)}, "the model knows it of "),
        ({"label": (1,)}, "entities that the model knows it of have the same label"),
    ],
)
def test_reasons_not_to_measure_an_attribute(known, changes, reason) -> None:
    chosen = changes.get("entities", range(40))
    prompts = [p for p in known.prompts if p.attribute or p.entity in chosen]
    if "label" in changes:
        prompts = [p if p.attribute else replace(p, label=changes["label"]) for p in prompts]
    changed = replace(known, prompts=prompts, num_asked=changes.get("num_asked", [len(chosen) * 2, 80, 80]))
    pairs, reasons = sample_pairs(changed, 3, SAMPLING)
    assert list(reasons) == [0]
    assert reason in reasons[0]
    assert {pair.attribute for pair in pairs} == {pair.base.attribute for pair in pairs} == {1, 2}


def test_one_attribute_alone_has_nothing_to_leave_alone(known) -> None:
    pairs, reasons = sample_pairs(replace(known, num_asked=[80, 400, 400]), 3, SAMPLING)
    assert pairs == []
    assert "nothing to leave alone" in reasons[0]
    assert len(reasons) == 3
