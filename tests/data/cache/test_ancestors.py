"""A cache that is extended keeps its earlier length, and the runs trained from that are evaluated on it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.interrupted_harvests import changed, contents
from saepipe.data.cache.ancestors import ancestors, damaged_ancestors, keep_ancestor, open_length, whole_cache
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.repair import repair
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import damaged_files, open_committed
from saepipe.evaluate.run import evaluate
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest
from saepipe.train.run import train

HOOK = "blocks.1.hook_resid_post"
CORE = {"metrics": [{"name": "core", "num_contexts": 4}], "features": None}


@pytest.fixture(scope="module")
def short(toy_config: HarvestConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns a cache of one full pool and a part of the second."""
    return harvest(shortened(toy_config), tmp_path_factory.mktemp("short") / "cache").path


@pytest.fixture
def cache(short: Path, tmp_path: Path) -> Path:
    return shutil.copytree(short, tmp_path / "cache")


def shortened(config: HarvestConfig) -> HarvestConfig:
    return changed(config, num_tokens=5000, heldout_tokens=1000)


def training(cache: Path, **settings: Any) -> dict[str, Any]:
    sae = {"name": "relu", "d_sae": 32}
    return {"cache": str(cache), "hook": HOOK, "sae": sae, "steps": 20, "batch_size": 64, **settings}


def figures(result: Path) -> Any:
    return json.loads(result.read_text())["eval_result_metrics"]


def test_the_earlier_length_stays_as_it_was(cache: Path, toy_cache: Path, toy_config: HarvestConfig) -> None:
    before, fingerprint = contents(cache), Cache.open(cache).fingerprint
    harvest(toy_config, cache)
    (earlier,) = ancestors(cache)
    assert contents(earlier) == before
    assert contents(cache) == contents(toy_cache)  # as if made in a single harvest
    assert whole_cache(earlier) == whole_cache(cache) == cache
    opened = open_length(cache, fingerprint)
    assert (opened.path, opened.num_tokens) == (earlier, 5000)
    assert open_length(cache, "of no length").num_tokens == 12_000
    shard = f"acts/{HOOK}/c/0/0"
    assert (earlier / shard).samefile(cache / shard)  # of a complete pool: no space of its own


def test_a_run_is_evaluated_at_the_length_that_it_was_trained_from(
    cache: Path, toy_config: HarvestConfig, tmp_path: Path
) -> None:
    (run,) = train(training(cache), tmp_path / "runs")
    (before,) = evaluate([run], CORE, out=tmp_path / "before")
    harvest(toy_config, cache)
    (after,) = evaluate([run], CORE, out=tmp_path / "after")
    assert figures(after) == figures(before)
    with pytest.raises(ConfigError, match="the cache's content") as refused:
        train(training(cache), tmp_path / "runs")
    assert refused.value.hint.endswith(f"--cache {ancestors(cache)[0]}")
    assert train(training(ancestors(cache)[0]), tmp_path / "runs") == [run]  # finished already


def test_an_extension_that_is_given_up_leaves_the_earlier_length(cache: Path, toy_config: HarvestConfig) -> None:
    fingerprint = Cache.open(cache).fingerprint
    keep_ancestor(cache)
    (cache / "COMMITTED").unlink()
    assert open_length(cache, fingerprint).num_tokens == 5000


def test_damage_to_a_shared_shard_is_repaired_in_both(cache: Path, toy_cache: Path, toy_config: HarvestConfig) -> None:
    before = contents(cache)
    harvest(toy_config, cache)
    damage(cache / f"acts/{HOOK}/c/0/0")
    assert not list(damaged_ancestors(cache))  # it is one file, named once
    assert repair(cache)["lost"] == []
    harvest(toy_config, cache)
    assert contents(cache) == contents(toy_cache)
    assert contents(ancestors(cache)[0]) == before


def test_damage_to_a_file_of_the_earlier_length_alone_is_named(cache: Path, toy_config: HarvestConfig) -> None:
    harvest(toy_config, cache)
    (earlier,) = ancestors(cache)
    damage(earlier / f"acts/{HOOK}/c/2/0")
    (sentence,) = damaged_ancestors(cache)
    assert str(earlier / f"acts/{HOOK}/c/2/0") in sentence
    report = repair(cache)
    assert (report["damaged"], report["lost"], report["next"]) == ([], [sentence], None)


def test_without_hard_links_files_are_copied(
    cache: Path, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("hard links are not supported")

    before = contents(cache)
    monkeypatch.setattr(os, "link", refuse)
    earlier = keep_ancestor(cache)
    assert contents(earlier) == before
    assert not (earlier / "zarr.json").samefile(cache / "zarr.json")
    _, lines = open_committed(earlier, "cache")
    assert not list(damaged_files(earlier, lines))


def damage(path: Path) -> None:
    """Flips a bit in the middle of a file, in place."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    with path.open("r+b") as file:
        file.write(data)
