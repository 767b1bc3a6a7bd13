"""The harvest of a stream: what is refused, and what is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from saepipe.data.errors import ConfigError
from saepipe.evaluate.streaming.head import harvest_config, head_config
from saepipe.harvest.config import HarvestConfig
from saepipe.train.config_sections import StreamConfig


def settings(tmp_path: Path, ranks: int = 1, **harvest: Any) -> StreamConfig:
    plain = {"num_tokens": "2M", "shard_rows": 65_536, "pool_shards": 4, "heldout_tokens": 10_000}
    (tmp_path / "harvest.yaml").write_text(yaml.safe_dump({**plain, **harvest}))
    return StreamConfig(harvest=tmp_path / "harvest.yaml", ranks=ranks)


def test_one_pool_and_all_held_out_text_are_kept(tmp_path: Path) -> None:
    config = harvest_config(settings(tmp_path))
    expected = {"num_tokens": 262_144, "fill_heldout": True}
    assert head_config(config) == HarvestConfig.parse({**config.to_dict(), **expected})


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"codec": "int8"}, "codec: int8 takes channel statistics from the first pool"),
        ({"heldout_tokens": 127}, "a stream needs held-out text"),
        ({"heldout_share": 0}, "a stream needs held-out text"),
        ({"num_tokens": 262_144}, "num_tokens 262,144 fit into one pool of 262,144 rows; harvest a cache"),
        ({"ranks": 2, "drop_norm_above": 5}, "drop_norm_above needs a single rank"),
    ],
)
def test_what_cannot_be_streamed_is_refused(tmp_path: Path, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=f"harvest.yaml cannot be streamed: {problem}"):
        harvest_config(settings(tmp_path, **changes))
