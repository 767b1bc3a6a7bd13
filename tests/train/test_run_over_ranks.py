"""Runs split over ranks, as `torchrun -m saepipe train` makes them: finished, resumed on other ranks, late, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from helpers.torchrun import Answer, torchrun
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import COMMITTED
from saepipe.train.config import TrainConfig
from saepipe.train.run import train
from saepipe.train.rundir.finished_run import open_run

Make = Callable[..., TrainConfig]

TOPK: dict[str, Any] = {"sae": {"name": "topk", "d_sae": 43, "k": 4}, "penalties": [{"name": "auxk"}]}
PAIRS: dict[str, Any] = {"sae": {"name": "relu", "d_sae": 43}, "penalties.0": {"name": "ortsae", "weight": 1.0}}
STUDY: dict[str, Any] = {"variants": [{"name": "pairs", **PAIRS}, {"name": "topk", **TOPK}]}


def train_over_ranks(config: TrainConfig, out: Path, latents: int, data: int, **parallel: Any) -> Answer:
    path = out.parent / f"{out.name}-{latents}x{data}.yaml"
    split = {"latents": latents, "data": data, **parallel}
    path.write_text(config.model_copy(update={"parallel": config.parallel.model_copy(update=split)}).to_yaml())
    command = ["-m", "saepipe", "train", "--config", str(path), "--out", str(out), "--format", "json"]
    return torchrun(latents * data, command)


def unfinished(run: Path, copy: Path) -> None:
    """Copies a finished run as it was at its last checkpoint."""
    shutil.copytree(run, copy)
    (copy / COMMITTED).unlink()
    shutil.rmtree(copy / "sae")


def test_a_run_over_ranks_is_a_run_and_goes_on_over_any_ranks(config: Make, tmp_path: Path) -> None:
    study = config(**STUDY, seed=1)
    alone = train(study, tmp_path / "alone")
    result = train_over_ranks(study, tmp_path / "two", 2, 1)
    assert result.returncode == 0, result.stderr
    two = [tmp_path / "two" / path.relative_to(tmp_path / "alone") for path in alone]
    assert json.loads(result.stdout)["runs"] == list(map(str, two))  # the first rank's answer alone
    for copy in ("one", "four"):
        for path in two:
            unfinished(path, tmp_path / copy / path.relative_to(tmp_path / "two"))
    train(study, tmp_path / "one", resume="must")
    result = train_over_ranks(study, tmp_path / "four", 2, 2)
    assert result.returncode == 0, result.stderr
    for expected in alone:
        runs = [tmp_path / name / expected.relative_to(tmp_path / "alone") for name in ("two", "one", "four")]
        assert {path.name for path in runs[0].iterdir()} == {path.name for path in expected.iterdir()}
        for run in runs:
            assert_same(run, expected)


def assert_same(run: Path, expected: Path) -> None:
    """Compares runs up to rounding: id, files, SAE, and each figure of the log."""
    assert open_run(run).run_id == open_run(expected).run_id
    ours, theirs = (load_file(path / "sae" / "sae_weights.safetensors") for path in (run, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    state, theirs = (load_file(path / "checkpoints" / "15" / "state.safetensors") for path in (run, expected))
    torch.testing.assert_close(state, theirs, rtol=1e-4, atol=1e-6)
    lines, others = ((path / "metrics.jsonl").read_text().splitlines() for path in (run, expected))
    for line, other in zip(map(json.loads, lines), map(json.loads, others), strict=True):
        names = ("step", "loss", "l0", "fvu", "dead", "gradient_norm")
        assert [line[name] for name in names] == pytest.approx([other[name] for name in names], rel=1e-5)


SLOW = """
import os, time
from typing import Literal
from saepipe.train.penalties.base import Penalised, Penalty

class Slow(Penalty):
    name: Literal["slow"] = "slow"

    def __call__(self, ctx, state, now):
        if os.environ.get("RANK") == "1" and ctx.step == 7 and ctx.num_steps == 20:
            time.sleep(10)
        return Penalised(ctx.acts_sum.sum() / len(ctx.x), {}, state)
"""


def test_a_late_rank_is_named_and_nobody_waits_for_ever(config: Make, tmp_path: Path) -> None:
    plugin = tmp_path / "slow.py"
    plugin.write_text(SLOW)
    late = config(plugins=[str(plugin)], penalties=[{"name": "slow", "weight": 0.1}])
    result = train_over_ranks(late, tmp_path / "runs", 2, 1, timeout=3)
    assert result.returncode == 1
    assert "rank 0 waited in vain for rank 1, which is late or has ended" in " ".join(result.stderr.split())
    assert (tmp_path / "runs" / "base" / "seed-0" / "checkpoints" / "5" / "state.json").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dead": {"resample_steps": 5}}, "use the penalty auxk"),
        ({"kl_tail": 0.1}, "kl_tail cannot be split"),
        ({"compile": "inductor"}, "compile: inductor is for runs of one process"),
        ({"sparse_steps": "always"}, "a run over ranks has no sparse steps"),
        ({"parallel": {"latents": 41}}, "latents 41 are more than d_sae 40"),
        ({"parallel": {"data": 18}}, "data 18 is more than batch_size 17"),
    ],
)
def test_what_cannot_be_split_is_refused(config: Make, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        config(**{"parallel": {"latents": 2}, **changes})


def test_as_many_ranks_as_the_config_says_are_needed(config: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="latents 2 x data 3 needs 6 ranks, and there are 1") as raised:
        train(config(parallel={"latents": 2, "data": 3}), tmp_path)
    assert "torchrun --nproc-per-node 6" in (raised.value.hint or "")
