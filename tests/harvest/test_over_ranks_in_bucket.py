"""Ranks of several machines, each with a mirror of its own, make one cache in a bucket, whoever dies on the way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from helpers.interrupted_harvests import Crash, changed, contents, crash_after
from helpers.object_storage import ObjectStorage
from helpers.torchrun import machines
from saepipe.data.remote.bucket import bucket_of
from saepipe.data.terminal.progress import Silent
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.run import harvest


@pytest.fixture(scope="module")
def config(toy_config: HarvestConfig) -> HarvestConfig:
    """Returns a harvest of 12 training and 3 held-out pools."""
    small = {"hooks": ["blocks.1.hook_resid_post"], "shard_rows": 512, "chunk_rows": 256, "pool_shards": 2}
    return changed(toy_config, **small, batch_size=3, encoders=1)


def arguments(folder: Path, config: HarvestConfig, out: str) -> list[str]:
    """Returns what torchrun runs to harvest into a bucket."""
    path = folder / "harvest.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    return ["harvest", "--config", str(path), "--out", out]


def environments(folder: Path, names: str) -> list[Mapping[str, str]]:
    """Returns the environment of each machine: its folders."""
    variables = {"SAEPIPE_MIRRORS": "mirrors", "SAEPIPE_SHARDS": "shards"}
    return [{key: str(folder / name / variables[key]) for key in variables} for name in names]


def stored(storage: ObjectStorage) -> dict[str, bytes]:
    """Returns what the bucket holds of the cache, but for logs; `ranks/` included."""
    return {name: data for name, data in storage.contents("cache").items() if not name.startswith("log/")}


def test_two_machines_go_on_for_one_and_a_rank_that_dies_is_started_again(
    object_storage: ObjectStorage, config: HarvestConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process has listed some pools; then the last of four ranks dies, and both agents start theirs again."""
    with monkeypatch.context() as patch:
        crash_after(patch, 12)
        with pytest.raises(Crash):
            harvest(config, object_storage.at("cache"))
    lists = [name for name in stored(object_storage) if name.startswith("ranks/pools/")]
    assert "ranks/pools/train-00000000.jsonl" in lists
    assert len(lists) < 12
    (tmp_path / "dying.py").write_text(DYING)
    command = [str(tmp_path / "dying.py"), *arguments(tmp_path, config, object_storage.at("cache"))]
    with machines(environments(tmp_path, "ab"), 2, command, max_restarts=1) as wait:
        run = wait()
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("dies in life 0") == 1
    assert run.stdout.count("fingerprint") == 1
    assert stored(object_storage) == contents(harvest(config, tmp_path / "alone").path)


DYING = """
import os, signal, sys
from saepipe.cli import main
from saepipe.data.cache.writer import CacheWriter
from saepipe.data.ranks.launch import Ranks

ranks, put, pools = Ranks.of_environment(), CacheWriter.put, []

def dying_put(self, pool):
    pools.append(pool.number)
    if ranks.rank == 3 and ranks.life == 0 and len(pools) == 2:
        sys.stderr.write("rank 3 dies in life 0\\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, pool)

CacheWriter.put = dying_put
sys.exit(main())
"""


def test_machines_that_are_stopped_are_resumed_by_one_with_an_empty_mirror(
    object_storage: ObjectStorage, config: HarvestConfig, tmp_path: Path
) -> None:
    """The channel statistics of `int8` are those of the first pool, which one of the machines has made."""
    longer = changed(config, num_tokens=30_000, codec="int8", int8_snr_floor=1)
    command = ["-m", "saepipe", *arguments(tmp_path, longer, object_storage.at("cache"))]
    with machines(environments(tmp_path, "abc"), 1, command):
        deadline = time.monotonic() + 120
        objects = bucket_of(object_storage.address)
        while len(objects.list("cache/ranks/pools")) < 4 and time.monotonic() < deadline:
            time.sleep(0.2)
    before = stored(object_storage)
    assert "COMMITTED" not in before
    assert any(name.startswith("ranks/pools/") for name in before)
    object_storage.other_machine()
    progress = Silent()
    harvest(longer, object_storage.at("cache"), progress=progress)
    assert any("are stored already" in sentence for sentence in progress.said)
    assert stored(object_storage) == contents(harvest(longer, tmp_path / "alone").path)
