"""Each rule reports its fault in the expected words, and a sound run has no finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.mutations import MUTATIONS, Mutation, World
from helpers.repository import DOCS
from saepipe.data.folders.health_rules import RULES
from saepipe.train.health_config import HealthConfig

PAGE = DOCS / "health.md"


@pytest.fixture
def world(tiny_cache: Path, tmp_path: Path) -> World:
    return World(tiny_cache, tmp_path / "runs")


def test_a_sound_run_has_no_finding(world: World) -> None:
    assert world.train() == []


def test_sound_variants_have_no_finding(world: World) -> None:
    """Includes other weights, another seed, and a weight of 0, which trains like no penalty at all."""
    off = [{"name": "l1", "weight": 1.0, "warmup": 0.1}, {"name": "topk_orthogonality", "weight": 0.0}]
    variants = [{"name": "plain"}, {"name": "off", "penalties": off}, {"name": "more", "penalties.0.weight": 1.1}]
    assert world.train(variants=variants, seeds=[0, 1]) == []


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: f"{mutation.rule}: {mutation.fault}")
def test_a_fault_is_found(mutation: Mutation, world: World) -> None:
    reports = mutation.inject(world)
    matching = [report for report in reports if mutation.words in report]
    assert matching, reports
    assert mutation.rule in matching[0] or "config error" in matching[0]


def test_every_rule_has_a_fault() -> None:
    assert {mutation.rule for mutation in MUTATIONS} == RULES.keys()


def test_the_docs_list_every_rule_threshold_and_fault() -> None:
    text = PAGE.read_text()
    assert [name for name in HealthConfig.model_fields if f"`{name}`" not in text] == []
    assert [rule.id for rule in RULES.values() if f"| {rule.id} {rule.title} |" not in text] == []
    assert [rule.id for rule in RULES.values() if f"| {rule.id} | {rule.title} | {rule.text} |" not in text] == []
    assert [mutation.fault for mutation in MUTATIONS if f"| {mutation.rule} | {mutation.fault} |" not in text] == []
