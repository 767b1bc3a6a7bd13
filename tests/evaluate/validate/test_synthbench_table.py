"""Verdicts of the benchmark's table, from estimates by hand."""

from __future__ import annotations

import json

import pytest

from saepipe.evaluate.stats.intervals import Estimate
from saepipe.evaluate.validate.synthbench_table import KEYS, BenchRow, BenchTable

pytestmark = pytest.mark.quick

UP, DOWN, UNCLEAR = Estimate(0.05, 0.01, 0.09), Estimate(-0.02, -0.03, -0.01), Estimate(0.04, -0.01, 0.09)


def row(**differences: Estimate) -> BenchRow:
    return BenchRow("ours", 3, {key: Estimate(0.5) for key in KEYS}, dict.fromkeys(KEYS, UNCLEAR) | differences, {})


def test_a_verdict_says_what_the_intervals_support() -> None:
    verdict = row(f1=UP, explained_variance=DOWN).verdict
    assert verdict == "F1 better (+0.050); no change in MCC seen; explained variance worse (-0.020)"


def test_without_an_interval_nothing_is_seen() -> None:
    """All seeds gave the same difference, as two seeds of identical SAEs do."""
    assert row(f1=Estimate(0.05)).verdict.startswith("no change in F1 seen")


def test_only_the_small_size_warns_of_itself() -> None:
    small, full = (BenchTable((), size, "sizes", {"num_seeds": 3}) for size in ("cpu", "full"))
    assert "this is no result of SynthSAEBench" in small.notes[0]
    assert not any("no result" in note for note in full.notes)
    assert json.loads(full.with_rows([row()]).to_json())["world"] == "synthbench-v2, size full: sizes, 3 seeds"
