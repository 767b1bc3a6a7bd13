"""Ranks that share out the runs of a training make the weights of one process, and decode each pool once."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest
import yaml
from torch.distributed import HashStore

from helpers.torchrun import torchrun
from saepipe.data.ranks.launch import Ranks
from saepipe.data.terminal.progress import Silent
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.shared_out import SharedOut

SAE = "sae/sae_weights.safetensors"

COUNTING = """
import json, os, signal, sys
from pathlib import Path
from saepipe.cli import main
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.ranks.launch import Ranks
from saepipe.data.terminal.progress import Silent
from saepipe.train.live_run import LiveRun

ranks, decoded, read, step = Ranks.of_environment(), [], MappedRows.read_chunk, LiveRun.after_step

def counting_read(self, chunk, out):
    decoded.append(chunk)
    return read(self, chunk, out)

def dying_step(self, measurement):
    if {dies} and ranks.rank == 1 and ranks.life == 0 and self.state.step == 70:
        os.kill(os.getpid(), signal.SIGKILL)
    step(self, measurement)

MappedRows.read_chunk, LiveRun.after_step = counting_read, dying_step
code = main()
Path(sys.argv[0]).with_name(f"decoded-{{ranks.rank}}.json").write_text(json.dumps(decoded))
sys.exit(code)
"""


@pytest.fixture
def config(tiny_cache: Path) -> TrainConfig:
    """Returns eight runs, some of which are stacked; 160 steps of 256 read the 8,200 rows five times."""
    return TrainConfig.parse(
        {
            "cache": str(tiny_cache),
            "sae": {"name": "topk", "d_sae": 48, "k": 4},
            "steps": 160,
            "batch_size": 256,
            "checkpoint_every": 50,
            "device": "cpu",
            "seeds": [0, 1],
            "variants": [
                {"name": "topk"},
                {"name": "relu", "sae": {"name": "relu", "d_sae": 48}, "penalties": [{"name": "l1", "weight": 0.1}]},
                {"name": "short", "steps": 40},
                {"name": "auxk", "penalties": [{"name": "auxk"}]},
            ],
        }
    )


def started(folder: Path, config: TrainConfig, num_ranks: int, *, dies: bool = False) -> list[list[int]]:
    """Trains over ranks; returns the chunks that each of them has decoded."""
    (folder / "train.yaml").write_text(yaml.safe_dump(config.to_dict()))
    (folder / "counting.py").write_text(COUNTING.format(dies=dies))
    arguments = ["train", "--config", str(folder / "train.yaml"), "--out", str(folder / "runs")]
    run = torchrun(num_ranks, [str(folder / "counting.py"), *arguments], max_restarts=int(dies))
    assert run.returncode == 0, run.stderr
    assert "runs" in run.stdout
    return [json.loads((folder / f"decoded-{rank}.json").read_text()) for rank in range(num_ranks)]


def weights(runs: list[Path]) -> dict[str, bytes]:
    return {f"{run.parent.name}/{run.name}": (run / SAE).read_bytes() for run in runs}


def test_ranks_make_the_weights_of_one_process(config: TrainConfig, tmp_path: Path) -> None:
    alone = weights(train(config, tmp_path / "alone"))
    decoded = started(tmp_path, config, 3)
    assert weights(sorted((tmp_path / "runs").glob("*/seed-*"))) == {name: alone[name] for name in sorted(alone)}
    # Each rank decodes the first pool for b_dec, and for its runs' audits; one decodes the five epochs of 33 chunks.
    counts = sorted(map(len, decoded))
    assert counts[-1] - counts[-2] > 4 * 33


def test_a_rank_that_dies_is_started_again(config: TrainConfig, tmp_path: Path) -> None:
    alone = weights(train(config, tmp_path / "alone"))
    started(tmp_path, config, 2, dies=True)
    assert weights(sorted((tmp_path / "runs").glob("*/seed-*"))) == {name: alone[name] for name in sorted(alone)}


def test_the_first_rank_leaves_last() -> None:
    """It may serve the store that the others still ask."""
    store, left = HashStore(), list[int]()

    def wait(rank: int) -> None:
        time.sleep(0.1 * rank)
        SharedOut(Ranks(rank, 3), store).wait_for_all()
        left.append(rank)

    threads = [threading.Thread(target=wait, args=(rank,)) for rank in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert left[-1] == 0
    assert sorted(left) == [0, 1, 2]


def test_shares_train_every_run_once_to_the_same_bytes(tmp_path: Path, config: TrainConfig) -> None:
    short = TrainConfig.parse({**config.to_dict(), "steps": 20})
    whole = train(short, tmp_path / "whole")
    shares = [train(short, tmp_path / "runs", share=f"{number}/3") for number in (3, 1, 2)]
    assert [len(runs) for runs in shares] == [2, 3, 3]
    assert shares[0] == [tmp_path / "runs" / run.relative_to(tmp_path / "whole") for run in whole[2::3]]
    for run in whole:
        assert (tmp_path / "runs" / run.relative_to(tmp_path / "whole") / SAE).read_bytes() == (run / SAE).read_bytes()


def test_a_share_without_a_run_says_so(tmp_path: Path, config: TrainConfig) -> None:
    progress = Silent()
    assert train(config, tmp_path / "runs", share="9/9", progress=progress) == []
    assert progress.said == ["share 9/9 has no run to train: the config has too few"]
    assert not (tmp_path / "runs").exists()
