"""The dry run of a study: steps, passes, time, memory and bytes of every run."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from saepipe.train.config import TrainConfig
from saepipe.train.dry_run import DryRun, dry_run, render

pytestmark = pytest.mark.quick


@pytest.fixture
def plan(tiny_cache: Path) -> DryRun:
    raw = {"cache": str(tiny_cache), "sae": {"name": "relu", "d_sae": 40}, "steps": 100, "batch_size": 82}
    variants = [{"name": "plain"}, {"name": "topk", "sae": {"name": "topk", "d_sae": 40, "k": 4}}]
    config = TrainConfig.parse({**raw, "device": "cpu", "variants": variants, "seeds": [0, 1]})
    return dry_run(config, seconds=0)


def test_costs_add_up(plan: DryRun) -> None:
    assert [cost.run for cost in plan.runs] == ["plain/seed-0", "plain/seed-1", "topk/seed-0", "topk/seed-1"]
    first = plan.runs[0]
    assert (first.steps, first.tokens, first.passes, first.sae_bytes) == (100, 8200, 1.0, 4 * (2 * 24 * 40 + 64))
    assert first.seconds == 100 * first.step_seconds > 0
    assert plan.seconds == sum(cost.seconds for cost in plan.runs)
    assert plan.streams == 1
    assert first.memory_bytes < plan.memory_bytes < 4 * first.memory_bytes  # activations of one run at a time


def test_seeds_of_a_variant_are_one_row(plan: DryRun) -> None:
    console = Console(width=80, record=True, file=None)
    with console.capture() as captured:
        console.print(*render(plan))
    text = captured.get()
    (row,) = [line for line in text.splitlines() if line.strip().startswith("plain")]
    assert row.split()[1:4] == ["2", "100", "1"]
    assert "4 runs on cpu" in text
