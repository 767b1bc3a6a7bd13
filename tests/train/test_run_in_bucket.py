"""Training from a cache in a bucket, into a bucket: the same runs as in folders."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.killed_training import KillAfter, Killed
from helpers.object_storage import ObjectStorage
from saepipe.data.bucket_address import mirrors
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import LockedError
from saepipe.data.remote import claim
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.remote.claiming import claimed
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.dry_run import dry_run
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run

WEIGHTS = "sae/sae_weights.safetensors"


def config(cache: Path | str, **settings: Any) -> TrainConfig:
    plain = {
        "cache": str(cache),
        "sae": {"name": "topk", "d_sae": 64, "k": 4},
        "steps": 60,
        "batch_size": 256,
        "checkpoint_every": 20,
        "log_every": 20,
        "device": "cpu",
    }
    return TrainConfig.parse({**plain, **settings})


@pytest.fixture
def cache(object_storage: ObjectStorage, tiny_cache: Path) -> str:
    """Address of a copy of the tiny cache."""
    return copied(object_storage, tiny_cache)


def copied(storage: ObjectStorage, cache: Path) -> str:
    """Copies a cache into the bucket, and returns its address there."""
    objects = bucket_of(storage.address)
    for path in cache.rglob("*"):
        if path.is_file() and path.name not in ("lock", "lock.owner"):
            objects.put(f"cache/{path.relative_to(cache)}", path)
    return storage.at("cache")


def acts(storage: ObjectStorage) -> tuple[int, int]:
    """Requests for shards of activations so far, and the bytes of their answers."""
    answers = [
        r.num_answered for r in storage.proxy.requests if r.method == "GET" and re.search("/cache/acts/.*/c/", r.path)
    ]
    return len(answers), sum(answers)


def test_runs_in_a_bucket_are_those_of_folders(every_storage: ObjectStorage, tiny_cache: Path, tmp_path: Path) -> None:
    cache = copied(every_storage, tiny_cache)
    (local,) = train(config(tiny_cache), tmp_path / "runs")
    (run,) = train(config(cache), every_storage.at("runs"))
    contents = every_storage.contents("runs/base/seed-0")
    assert contents[WEIGHTS] == (local / WEIGHTS).read_bytes()
    assert contents["health.json"] == (local / "health.json").read_bytes()
    assert contents["config.yaml"].decode() == (local / "config.yaml").read_text().replace(str(tiny_cache), cache)
    every_storage.other_machine()
    opened = open_run(every_storage.at("runs/base/seed-0"))
    assert opened.run_id == open_run(local).run_id
    assert (opened.path / WEIGHTS).read_bytes() == contents[WEIGHTS]
    assert opened.cache != run, "a mirror of this machine"


def test_a_pass_reads_the_cache_once_and_the_next_run_nothing(object_storage: ObjectStorage, cache: str) -> None:
    opened = Cache.open(cache)
    ideal = sum(entry["bytes"] for name, entry in opened.files.items() if name.startswith("acts/"))
    train(config(cache, steps=100), object_storage.at("runs"))  # three passes
    num_shards, num_bytes = acts(object_storage)
    assert num_shards == sum(name.startswith("acts/") for name in opened.files if "/c/" in name)
    assert num_bytes <= 1.02 * ideal
    object_storage.restart()
    train(config(cache, seed=1), object_storage.at("runs"))
    assert acts(object_storage) == (num_shards, num_bytes)


def test_another_machine_goes_on_from_the_last_checkpoint(
    object_storage: ObjectStorage, cache: str, tiny_cache: Path, tmp_path: Path
) -> None:
    (local,) = train(config(tiny_cache), tmp_path / "runs")
    progress = KillAfter(50)
    with pytest.raises(Killed):
        train(config(cache), object_storage.at("runs"), progress=progress)
    object_storage.other_machine()
    progress = KillAfter(1000)
    train(config(cache), object_storage.at("runs"), progress=progress)
    assert progress.remaining > 1000 - 30, "20 of 60 steps"
    contents = object_storage.contents("runs/base/seed-0")
    assert contents[WEIGHTS] == (local / WEIGHTS).read_bytes()
    assert contents["metrics.jsonl"].count(b"\n") == (local / "metrics.jsonl").read_bytes().count(b"\n")


def test_a_run_that_another_machine_writes_is_refused_after_a_look_that_is_told(
    object_storage: ObjectStorage, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "LEASE_SECONDS", 0.6)
    progress = Silent()
    with claimed(run := object_storage.address / "runs/base/seed-0"):
        object_storage.other_machine()
        with pytest.raises(LockedError, match=f"another process is writing {run}"):
            train(config(cache), object_storage.at("runs"), progress=progress)
    assert sum("if it has died, its claim lapses in" in sentence for sentence in progress.said) == 1


class Steps(Silent):
    """Calls a function at a number of batches."""

    def __init__(self, at: int, function: Callable[[], None]) -> None:
        super().__init__()
        self._left, self._function = at, function

    def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
        if amount:
            self._left -= 1
            if self._left == 0:
                self._function()


def test_a_checkpoint_is_sent_while_training_goes_on(object_storage: ObjectStorage, cache: str) -> None:
    """The first checkpoint, of step 20, is held until step 35."""
    proxy, seen = object_storage.proxy, list[dict[str, bytes]]()

    def look() -> None:
        seen.append(object_storage.contents("runs/base/seed-0"))
        proxy.go.set()

    proxy.always("held", "PUT", "checkpoints/20/")
    train(config(cache), object_storage.at("runs"), progress=Steps(35, look))
    assert len(seen) == 1
    assert not any("checkpoints" in name for name in seen[0])
    contents = object_storage.contents("runs/base/seed-0")
    assert {name.split("/")[1] for name in contents if name.startswith("checkpoints/")} == {"20", "40"}
    assert "COMMITTED" in contents


def test_a_cache_larger_than_the_shard_cache_is_trained_from(
    object_storage: ObjectStorage, tiny_cache: Path, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    num_bytes = sum(entry["bytes"] for entry in Cache.open(tiny_cache).rows("blocks.1.hook_resid_post").shards.values())
    monkeypatch.setenv("SAEPIPE_SHARDS_GB", str(num_bytes / 3e9))
    progress = Silent()
    (local,) = train(config(tiny_cache, steps=64), tmp_path / "runs")  # two passes
    (run,) = train(config(cache, steps=64), object_storage.at("runs"), progress=progress)
    assert (run / WEIGHTS).read_bytes() == (local / WEIGHTS).read_bytes()
    copies = [path.stat().st_size for path in (mirrors().parent / "shards").glob("*/*")]
    assert 0 < sum(copies) <= num_bytes / 3
    assert any(
        sentence.startswith(f"{cache}: ") and "are fetched in every pass" in sentence for sentence in progress.said
    )
    planned = dry_run(config(cache, steps=64), seconds=0.01)
    assert [reads.num_bytes for reads in planned.buckets] == [num_bytes]
    assert planned.buckets[0].num_here == sum(copies)
