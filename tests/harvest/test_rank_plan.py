"""Shares of ranks, against dealing pools out one by one; memory of a rank, against what the system counts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from saepipe.data.batches.rank_memory import Measured
from saepipe.data.errors import ConfigError
from saepipe.data.ranks.launch import Ranks
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.plan import plan
from saepipe.harvest.rank_plan import RankPlan, rank_memory

HOOKS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


def config(**settings: Any) -> HarvestConfig:
    return HarvestConfig.parse({"hooks": HOOKS, "shard_rows": 1024, "pool_shards": 3, **settings})


@pytest.mark.quick
@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 100])
@pytest.mark.parametrize("rows", [(30_000, 5_000), (30_720, 0), (500, 1024)])
def test_the_first_rank_has_what_dealing_out_gives_it(ranks: int, rows: tuple[int, int]) -> None:
    own: dict[tuple[str, int], int] = {}
    for split, num_rows, pool_rows in (("train", rows[0], 3 * 1024), ("heldout", rows[1], 1024)):
        for row in range(0, num_rows, 8):
            if Ranks(0, ranks, 0, ranks).owns(pool := row // pool_rows):
                own[split, pool] = own.get((split, pool), 0) + min(8, num_rows - row)
    num_own = sum(own.values())
    planned = RankPlan.of(config(), ranks, rows, 10**6, (7200.0, 0.0))
    assert planned.pools == -(-rows[0] // 3072) + -(-rows[1] // 1024)
    assert planned.pools_of_a_rank == len(own)
    assert planned.shards_of_a_rank == len(HOOKS) * sum(-(-num // 1024) for num in own.values())
    assert planned.bytes_of_a_rank == pytest.approx(10**6 * num_own / sum(rows), abs=1)
    assert planned.seconds == pytest.approx(7200 * num_own / sum(rows), abs=0.1)
    assert planned.rank_hours == pytest.approx(ranks * 2 * num_own / sum(rows))


@pytest.mark.quick
def test_more_ranks_than_the_text_feeds_wait_and_cost() -> None:
    settings = config(cost={"per_rank_hour": 3.0, "currency": "EUR"})
    planned = RankPlan.of(settings, 8, (30_720, 0), 10**6, (7200.0, 3600.0))
    assert (planned.seconds, planned.waits_for_text, planned.rank_hours) == (3600.0, True, 8.0)
    assert planned.sentence() == (
        "8, each as fast as this machine: 60 min, 8 hours of ranks, 24.00 EUR; up to 2 of 10 pools, 12 shards, 200 kB "
        "each; they wait for the text, which one rank reads"
    )
    assert "cost" not in settings.to_dict()
    assert settings.identity() == config().identity()


def test_what_ranks_cannot_do_is_refused_by_the_plan(toy_config: HarvestConfig, tmp_path: Path) -> None:
    dropping = toy_config.model_copy(update={"drop_norm_above": 5.0})
    with pytest.raises(ConfigError, match="drop_norm_above decides by activations"):
        plan(dropping, tmp_path / "cache", ranks=2)


MEASURE = """
import json, sys
import torch
from pathlib import Path
from types import SimpleNamespace
from saepipe.data.batches.rank_memory import measured_memory
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.plan import plan
from saepipe.harvest.run import harvest
torch.set_num_threads(1)
config, out = HarvestConfig.parse(json.loads(sys.argv[1])), Path(sys.argv[2])
print(plan(config, out, count_seconds=0).memory.host)
with measured_memory(torch.device("cpu")) as measured:
    harvest(config, out)
print(measured.host)
"""


@pytest.mark.parametrize("shard_rows", [1024, 32_768])
def test_memory_is_within_15_percent_of_what_the_system_counts(shard_rows: int, tmp_path: Path) -> None:
    plain = config(shard_rows=shard_rows, pool_shards=1, batch_size=8, num_tokens=34_000).to_dict()
    plain |= {"heldout_tokens": 1024, "model": {"dtype": "float32", "device": "cpu"}}
    command = [sys.executable, "-c", MEASURE, json.dumps(plain), str(tmp_path / "cache")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    planned, measured = map(int, process.stdout.split())
    assert planned == pytest.approx(measured, rel=0.15)


@pytest.mark.quick
def test_pools_and_encoders_come_on_top_of_the_passes() -> None:
    """Two pools, of rows and norms at both hooks, contexts and positions; and each encoder's shard in three forms."""
    lm: Any = SimpleNamespace(
        widths=lambda _: dict.fromkeys(HOOKS, 64), model=SimpleNamespace(device=torch.device("cpu"))
    )
    settings = config(encoders=3, num_tokens="1M")
    memory = rank_memory(settings, lm, Measured(host=10**9), 2.0)
    pool = 3 * 1024 * (2 * (2 * 64 + 4) + 8 + 4)
    assert memory.host == 10**9 + 2 * pool + 3 * (1024 * 2 * 64) * 2  # compressed to a half, in chunks and as one
    few = settings.model_copy(update={"shard_rows": 2**19, "pool_shards": 1})  # larger than what a thread keeps
    pools = 2 * 2**19 * (2 * (2 * 64 + 4) + 8 + 4)
    assert rank_memory(few, lm, Measured(host=0), 2.0).host == pools + 2**19 * 2 * 64 * 2
