"""The dry run of a study: steps, passes, time, memory and bytes of every run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from saepipe.data.batches.rank_memory import PROGRAM
from saepipe.data.errors import ConfigError
from saepipe.train.config import TrainConfig
from saepipe.train.dry_run import DryRun, dry_run, render

pytestmark = pytest.mark.quick


VARIANTS = [{"name": "plain"}, {"name": "topk", "sae": {"name": "topk", "d_sae": 40, "k": 4}}]


def planned(cache: Path, ranks: int | None = None, **settings: Any) -> DryRun:
    raw = {"cache": str(cache), "sae": {"name": "relu", "d_sae": 40}, "steps": 100, "batch_size": 82}
    return dry_run(TrainConfig.parse({**raw, "device": "cpu", **settings}), ranks=ranks, seconds=0)


@pytest.fixture
def plan(tiny_cache: Path) -> DryRun:
    return planned(tiny_cache, variants=VARIANTS, seeds=[0, 1])


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


def test_ranks_take_turns_at_the_runs(tiny_cache: Path) -> None:
    plan = planned(tiny_cache, 3, variants=VARIANTS, seeds=[0, 1], cost={"per_rank_hour": 1000.0, "currency": "EUR"})
    plain, topk = plan.runs[0].seconds, plan.runs[2].seconds
    assert (plan.ranks, plan.runs_of_a_rank) == (3, 2)
    assert plan.rank_seconds == pytest.approx(max(plain + topk, plain))  # ranks have runs 0 and 3, 1, 2
    assert plan.rank_hours == pytest.approx(3 * plan.rank_seconds / 3600)
    assert plan.cost == f"{1000 * plan.rank_hours:,.2f} EUR"
    first = plan.runs[0]
    assert first.memory_bytes < plan.memory_bytes < 2 * first.memory_bytes
    assert plan.memory.host == plan.memory_bytes + PROGRAM
    assert not plan.memory.device


def test_a_run_over_ranks_is_planned_by_the_part_of_one(tiny_cache: Path) -> None:
    alone, split = (planned(tiny_cache, parallel=parallel) for parallel in ({}, {"latents": 2, "data": 2}))
    assert (split.ranks, split.is_split, split.rank_seconds) == (4, True, split.seconds)
    rows = 2 * 2 * 24 * 8200  # both pools of this small cache hold all of its rows, but for the last chunk
    params = 2 * 24 * 20 + 20 + 24
    step = split.memory_bytes - 12 * params - rows
    assert 0 < step < alone.memory_bytes - 12 * (2 * 24 * 40 + 40 + 24) - rows
    assert split.runs[0].sae_bytes == alone.runs[0].sae_bytes
    with pytest.raises(ConfigError, match="--ranks 3, but `parallel` splits each run over 4"):
        planned(tiny_cache, 3, parallel={"latents": 4})
    assert planned(tiny_cache, 4, parallel={"latents": 4}).ranks == 4


def test_a_rate_changes_no_run(tiny_cache: Path) -> None:
    plain, priced = (planned(tiny_cache, cost=cost) for cost in (None, {"per_rank_hour": 2.5}))
    assert plain.cost is None
    assert str(priced.cost).endswith(" USD")
    assert [run.run_id for run in plain.runs] == [run.run_id for run in priced.runs]
    config = TrainConfig.parse(
        {"cache": "c", "sae": {"name": "relu", "d_sae": 4}, "steps": 1, "cost": {"per_rank_hour": 1}}
    )
    assert "cost" not in config.to_dict()
