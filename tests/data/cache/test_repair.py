"""A damaged, repaired and reharvested cache is byte-identical to the original, even with kills in between."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.interrupted_harvests import Crash, changed, contents, crash_after
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.repair import repair
from saepipe.data.errors import ConfigError, CorruptDataError, LockedError
from saepipe.data.folders import artifact
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.run import harvest

ACTS, UPPER = "acts/blocks.1.hook_resid_post", "acts/blocks.2.hook_resid_post"


def flip(path: Path) -> None:
    """Flips one bit in the middle of a file."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.fixture
def cache(toy_cache: Path, tmp_path: Path) -> Path:
    """Three training pools of two shards, 4096 rows each but the last; two held-out pools of one shard."""
    return Path(shutil.copytree(toy_cache, tmp_path / "cache"))


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of contexts in each forward pass of a harvest."""
    run, counts = RowSource._run, []

    def counted(self: RowSource, batch: Any) -> Any:
        counts.append(len(batch.ids))
        return run(self, batch)

    monkeypatch.setattr(RowSource, "_run", counted)
    return counts


# The files to damage and how, the pools that are dropped, and the number of forward passes that make them again.
DAMAGE: dict[str, tuple[dict[str, Callable[[Path], None]], set[tuple[str, int]], int]] = {
    "a bit in the middle pool": ({f"{UPPER}/c/3/0": flip}, {("train", 1)}, 3),
    "a bit in the first pool, and its norms": (
        {f"{ACTS}/c/0/0": flip, "norm/blocks.1.hook_resid_post/c/1": Path.unlink},
        {("train", 0)},
        3,
    ),
    "a bit in the last pool": ({f"{ACTS}/c/5/0": flip}, {("train", 2), ("heldout", 1)}, 4),
    "a bit in the held-out part": ({"heldout/acts/blocks.1.hook_resid_post/c/0/0": flip}, {("heldout", 0)}, 1),
    "two gaps": (
        {
            f"{ACTS}/c/1/0": truncate,
            "context_id/c/4": Path.unlink,
            "stats/blocks.1.hook_resid_post/shards/c/4/0/0": flip,
        },
        {("train", 0), ("train", 2), ("heldout", 1)},
        7,
    ),
    "files that need no pass": (
        {
            "contexts/c/0/0": flip,
            "heldout/keep/c/0/0": Path.unlink,
            "stats/blocks.2.hook_resid_post/mean/c/0": flip,
            f"{ACTS}/zarr.json": truncate,
        },
        set(),
        0,
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_only_damaged_pools_are_made_again_and_the_cache_is_restored(
    cache: Path, toy_cache: Path, passes: list[int], kind: str
) -> None:
    damage, pools, num_passes = DAMAGE[kind]
    for name, spoil in damage.items():
        spoil(cache / name)
    report = repair(cache)
    assert len(report["damaged"]) == len(damage)
    assert all(any(name in sentence for sentence in report["damaged"]) for name in damage)
    assert {(pool["split"], pool["pool"]) for pool in report["pools"]} == pools
    assert report["tokens"] == sum(pool["rows"] for pool in report["pools"])
    assert not artifact.is_committed(cache)
    with pytest.raises(CorruptDataError, match="not finished"):
        Cache.open(cache)

    assert report["next"] == f"saepipe harvest --config {report['config']} --out {cache}"
    again = harvest(HarvestConfig.load(Path(report["config"])), cache)
    assert again.fingerprint == report["fingerprint"] == Cache.open(toy_cache).fingerprint
    assert contents(cache) == contents(toy_cache)
    assert again.damage() == []
    assert len(passes) == num_passes  # of 6 training and 2 held-out passes


def test_an_undamaged_cache_is_left_unchanged(cache: Path, toy_cache: Path) -> None:
    report = repair(cache)
    assert (report["damaged"], report["pools"], report["tokens"], report["next"]) == ([], [], 0, None)
    assert contents(cache) == contents(toy_cache)
    assert artifact.is_committed(cache)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zarr.json", "holds the cache's config"),
        ("manifest.jsonl", "cannot be repaired"),
        ("COMMITTED", "holds no digest"),
    ],
)
def test_damage_beyond_repair_is_reported_and_nothing_is_changed(cache: Path, name: str, message: str) -> None:
    flip(cache / f"{ACTS}/c/2/0")
    flip(cache / name)
    before = contents(cache)
    with pytest.raises(CorruptDataError, match=message) as raised:
        repair(cache)
    assert "another folder" in str(raised.value)
    assert contents(cache) == before


def test_there_must_be_a_cache_and_no_other_writer(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no cache"):
        repair(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    with artifact.writer_lock(cache), pytest.raises(LockedError):
        repair(cache)


def crash_when_listing(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: object) -> None:
        raise Crash

    monkeypatch.setattr(artifact, "rewrite_manifest", crash)


def crash_when_unsealed(monkeypatch: pytest.MonkeyPatch) -> None:
    write = artifact.write_file

    def crash(path: Path, data: bytes) -> None:
        if path.name == artifact.MANIFEST:
            raise Crash
        write(path, data)

    monkeypatch.setattr(artifact, "write_file", crash)


@pytest.mark.parametrize("crash", [crash_when_listing, crash_when_unsealed])
def test_a_kill_between_the_steps_is_safe(
    cache: Path,
    toy_cache: Path,
    toy_config: HarvestConfig,
    monkeypatch: pytest.MonkeyPatch,
    crash: Callable[[pytest.MonkeyPatch], None],
) -> None:
    """Neither a repair nor a harvest seals a damaged cache afterwards."""
    flip(cache / f"{ACTS}/c/2/0")
    with monkeypatch.context() as patched:
        crash(patched)
        with pytest.raises(Crash):
            repair(cache)
    sealed = artifact.is_committed(cache)
    assert sealed == (crash is crash_when_listing)
    harvested = Path(shutil.copytree(cache, cache.parent / "harvested"))
    if sealed:
        with pytest.raises(CorruptDataError, match="is missing"):
            harvest(toy_config, harvested)
    else:
        harvest(toy_config, harvested)
        assert contents(harvested) == contents(toy_cache)

    report = repair(cache)
    assert [(pool["split"], pool["pool"]) for pool in report["pools"]] == [("train", 1)]
    harvest(toy_config, cache)
    assert contents(cache) == contents(toy_cache)


def test_an_interrupted_repair_can_be_resumed(
    cache: Path, toy_cache: Path, toy_config: HarvestConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two gaps, a crash after the first pass of each, and new damage in a pool that was made again."""
    flip(cache / f"{ACTS}/c/0/0")
    flip(cache / f"{ACTS}/c/4/0")
    repair(cache)
    for batches in (1, 4):
        with monkeypatch.context() as patched:
            crash_after(patched, batches)
            with pytest.raises(Crash):
                harvest(toy_config, cache)
    complete = {(line["split"], line["pool"]) for line in artifact.read_manifest(cache) if line["kind"] == "pool"}
    assert {("train", 0), ("train", 1)} <= complete
    assert ("train", 2) not in complete
    flip(cache / f"{UPPER}/c/1/0")
    assert {pool["pool"] for pool in repair(cache)["pools"] if pool["split"] == "train"} == {0}
    again = repair(cache)
    assert (again["damaged"], again["pools"], again["fingerprint"]) == ([], [], None)
    assert again["next"]  # nothing is left to repair, but the cache is not finished
    harvest(toy_config, cache)
    assert contents(cache) == contents(toy_cache)


def test_int8_keeps_its_channel_statistics(tmp_path: Path, toy_config: HarvestConfig) -> None:
    """Mean and std stay those of the first shard; rows dropped for their norm are counted once."""
    settings: dict[str, Any] = {"codec": "int8", "int8_snr_floor": 10.0, "num_tokens": 6000, "drop_norm_above": 1.05}
    config = changed(toy_config, **settings, hooks=["blocks.1.hook_resid_post"], shard_rows=1024, heldout_tokens=1000)
    cache = harvest(config, tmp_path / "cache").path
    first = Path(shutil.copytree(cache, tmp_path / "first"))
    assert Cache.open(cache).attributes["num_dropped"] > 0
    for shards in ((0,), (3, 5)):
        for shard in shards:
            flip(cache / f"{ACTS}/c/{shard}/0")
        assert {pool["pool"] for pool in repair(cache)["pools"] if pool["split"] == "train"} == {s // 2 for s in shards}
        harvest(config, cache)
        assert contents(cache) == contents(first)
