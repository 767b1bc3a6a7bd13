"""Bounds of the space that a stream takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from saepipe.data.errors import ConfigError
from saepipe.evaluate.streaming.space import Space
from saepipe.harvest.config import HarvestConfig
from saepipe.train.config_sections import StreamConfig

GEMMA = HarvestConfig(num_tokens=10**9, heldout_tokens=500_000)
"""Pools of 262,144 rows."""
ROW = 2 * 2304 + 4 + 8 + 4
"""Bytes of a row: bfloat16, its norm, context and position."""


def space(gb: float) -> Space:
    return Space.of(StreamConfig(harvest=Path("h.yaml"), gb=gb, ranks=3), GEMMA, {"blocks.19.hook_resid_post": 2304})


def test_pools_fill_the_space_that_is_given() -> None:
    bounds = space(20)
    assert bounds.row_bytes == 262_144 * ROW
    assert 262_144 * ROW < bounds.pool_bytes < 1.03 * 262_144 * ROW
    assert bounds.most_pools == 16
    assert bounds.pools_bytes <= 20e9 < 17 * bounds.pool_bytes
    assert 762_144 * ROW < bounds.head_bytes < 1.03 * 762_144 * ROW
    assert bounds.sentence() == (
        "the stream holds at most 16 pools of 1.24 GB on disk, 19.8 GB in all, and keeps a head of 3.6 GB; the "
        "harvest holds two pools in memory, 2.42 GB, on each rank, besides its model"
    )


def test_less_than_two_pools_are_refused() -> None:
    with pytest.raises(ConfigError, match="gb 2 is less than two pools of 1.24 GB") as refused:
        space(2)
    assert refused.value.hint == "gb: 2.5, or a smaller pool_shards in the harvest"
    assert space(2.5).most_pools == 2
