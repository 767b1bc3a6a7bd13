"""Ranks that harvest together make the bytes of one that harvests alone, whoever dies or is missing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from helpers.interrupted_harvests import changed, contents
from helpers.torchrun import ROOT, torchrun
from saepipe.data.errors import ConfigError
from saepipe.data.ranks.launch import Ranks
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.over_ranks import check_ranks
from saepipe.harvest.run import harvest


@pytest.fixture(scope="module")
def config(toy_config: HarvestConfig) -> HarvestConfig:
    """Returns a harvest of 12 training and 3 held-out pools; window batches feed two pools."""
    small = {"hooks": ["blocks.1.hook_resid_post"], "shard_rows": 512, "chunk_rows": 256, "pool_shards": 2}
    return changed(toy_config, **small, batch_size=3)


def arguments(folder: Path, config: HarvestConfig) -> list[str]:
    """Returns what torchrun runs to harvest into `folder`/cache."""
    path = folder / "harvest.yaml"
    path.write_text(yaml.safe_dump(config.to_dict()))
    return ["-m", "saepipe", "harvest", "--config", str(path), "--out", str(folder / "cache")]


def test_four_ranks_make_the_bytes_of_one(config: HarvestConfig, tmp_path: Path) -> None:
    run = torchrun(4, arguments(tmp_path, config))
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("fingerprint") == 1
    assert contents(tmp_path / "cache") == contents(harvest(config, tmp_path / "alone").path)


def test_a_rank_without_a_pool_of_its_own_ends_with_the_others(config: HarvestConfig, tmp_path: Path) -> None:
    """The second rank owns nothing of one training and one held-out pool."""
    one_pool = changed(config, num_tokens=900, heldout_tokens=256)
    run = torchrun(2, arguments(tmp_path, one_pool))
    assert run.returncode == 0, run.stderr
    assert contents(tmp_path / "cache") == contents(harvest(one_pool, tmp_path / "alone").path)


def test_ranks_stopped_on_the_way_are_resumed_by_fewer(config: HarvestConfig, tmp_path: Path) -> None:
    """Three ranks get SIGTERM once the two that do not lead have listed a pool; one process goes on.

    The channel statistics of `int8` are those of the first pool, which another rank has made.
    """
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    longer = changed(config, num_tokens=60_000, codec="int8", int8_snr_floor=1)
    with subprocess.Popen([*launch, *arguments(tmp_path, longer)], env=environment, stderr=subprocess.DEVNULL) as ranks:
        while ranks.poll() is None and len(list((tmp_path / "cache" / "ranks").glob("*/manifest.jsonl"))) < 2:
            time.sleep(0.05)
        ranks.send_signal(signal.SIGTERM)
    assert ranks.returncode != 0
    assert not (tmp_path / "cache" / "COMMITTED").exists()
    said: list[str] = []

    class Listener:
        def __getattr__(self, _: str) -> object:
            return lambda *args, **_: said.extend(str(arg) for arg in args)

    finished = harvest(longer, tmp_path / "cache", progress=Listener())  # type: ignore[arg-type]
    assert any("are stored already" in sentence for sentence in said)
    assert contents(finished.path) == contents(harvest(longer, tmp_path / "alone").path)


def test_a_rank_that_dies_is_started_again(config: HarvestConfig, tmp_path: Path) -> None:
    """The life before has read as far ahead as it may; nobody takes those texts."""
    (tmp_path / "dying.py").write_text(DYING)
    module_arguments = arguments(tmp_path, config)[2:]
    run = torchrun(2, [str(tmp_path / "dying.py"), *module_arguments], max_restarts=2)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("dies in life") == 1
    assert contents(tmp_path / "cache") == contents(harvest(config, tmp_path / "alone").path)


DYING = """
import os, signal, sys
from pathlib import Path
from saepipe.cli import main
from saepipe.data.cache.writer import CacheWriter
from saepipe.data.ranks.launch import Ranks

ranks, put, pools = Ranks.of_environment(), CacheWriter.put, []
if ranks.is_first and ranks.life == 1:
    for number in range(100, 108):
        (Path(sys.argv[-1]) / "ranks" / "text" / f"train-{number:08d}.npz").touch()

def dying_put(self, pool):
    pools.append(pool.number)
    if ranks.rank == 1 and ranks.life == 0 and len(pools) == 3:
        sys.stderr.write("rank 1 dies in life 0\\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    put(self, pool)

CacheWriter.put = dying_put
sys.exit(main())
"""


def test_what_several_ranks_cannot_do_is_refused(config: HarvestConfig) -> None:
    with pytest.raises(ConfigError, match="drop_norm_above decides by activations"):
        check_ranks(changed(config, drop_norm_above=5), Ranks(0, 2, 0, 2))
    check_ranks(changed(config, drop_norm_above=5), Ranks())
