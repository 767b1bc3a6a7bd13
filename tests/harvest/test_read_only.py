"""What need not write does not: a finished harvest, and the repair of a sound cache, on a read-only file system."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from helpers.interrupted_harvests import changed
from helpers.read_only import read_only
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.repair import repair
from saepipe.data.errors import explain
from saepipe.data.terminal.progress import Silent
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest


def test_a_finished_cache_is_only_read(toy_config: HarvestConfig, toy_cache: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(toy_cache, tmp_path / "cache", ignore=shutil.ignore_patterns("log")))
    with read_only(tmp_path):
        assert harvest(toy_config, cache, progress=(said := Silent())).fingerprint == Cache.open(cache).fingerprint
        assert said.said == [f"{cache} is finished already"]
        assert repair(cache)["damaged"] == []
        with pytest.raises(Exception, match="Read-only") as caught:
            harvest(changed(toy_config, num_tokens=13_000), cache)
    code, message, _ = explain(caught.value)
    assert (code, str(cache) in message) == (3, True)
    assert Cache.open(cache).num_tokens == toy_config.num_tokens
