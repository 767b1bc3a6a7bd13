"""Automatic settings are stored as what was chosen, and a resumed harvest keeps to it."""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.interrupted_harvests import Crash, changed, contents, crash_after
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.data.terminal.progress import Silent
from saepipe.harvest import auto_settings
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.plan import plan
from saepipe.harvest.run import harvest


@pytest.fixture
def automatic(toy_config: HarvestConfig) -> HarvestConfig:
    model = toy_config.model.to_dict() | {"attention": "auto"}
    return changed(toy_config, batch_size="auto", model=model)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The contexts that fit in memory; a test changes them."""
    fitting = [16]
    monkeypatch.setattr(auto_settings, "contexts_that_fit", lambda *_: fitting[0])
    return fitting


def test_the_cache_is_that_of_the_chosen_settings(
    toy_cache: Path, automatic: HarvestConfig, tmp_path: Path, free: list[int]
) -> None:
    progress = Silent()
    cache = harvest(automatic, tmp_path / "cache", progress=progress)
    assert contents(cache.path) == contents(toy_cache)
    assert "chosen: attention: eager, batch_size: 16 (2,048 tokens per forward pass)" in progress.said


def test_a_resumed_harvest_keeps_to_what_was_chosen(
    toy_cache: Path, automatic: HarvestConfig, tmp_path: Path, free: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        crash_after(patch, 5)
        with pytest.raises(Crash):
            harvest(automatic, tmp_path / "cache")
    free[0] = 4
    cache = harvest(automatic, tmp_path / "cache")
    assert contents(cache.path) == contents(toy_cache)
    assert harvest(automatic, tmp_path / "cache").fingerprint == cache.fingerprint


def test_another_size_than_the_chosen_one_is_refused(
    toy_cache: Path, toy_config: HarvestConfig, automatic: HarvestConfig
) -> None:
    assert harvest(automatic, toy_cache).fingerprint == Cache.open(toy_cache).fingerprint
    with pytest.raises(ConfigError, match="batch_size: 16 -> 8"):
        harvest(changed(toy_config, batch_size=8), toy_cache)


def test_a_dry_run_chooses_too(automatic: HarvestConfig, tmp_path: Path) -> None:
    planned = plan(automatic, tmp_path / "cache")
    assert planned.batch_size & (planned.batch_size - 1) == 0  # a power of two that fits
    assert planned.page()["passes"] == f"{planned.batch_size:,} contexts each, attention {planned.attention}"
    assert planned.attention in {"sdpa", "eager"}


@pytest.mark.parametrize("size", ["large", 0, 65_537, 2.5, None])
def test_other_sizes_are_one_mistake(size: object) -> None:
    with pytest.raises(ConfigError, match="1 mistake(.|\n)*must be `auto`, or a whole number from 1 to 65,536"):
        HarvestConfig.parse({"batch_size": size})
