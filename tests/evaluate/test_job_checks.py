"""What would end a job at its start is refused when it is submitted; what another job may make first is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.small_study import plain_study
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import COMMITTED
from saepipe.data.folders.resume_mode import ResumeMode
from saepipe.data.ranks.share import Share
from saepipe.data.slurm.script import Job
from saepipe.evaluate.config import EvaluateConfig
from saepipe.evaluate.job_checks import check_evaluate, check_harvest, check_study, check_train
from saepipe.evaluate.study.config import StudyConfig
from saepipe.harvest.config import HarvestConfig
from saepipe.train.config import TrainConfig
from saepipe.train.run import train

LATER = "dependency=afterok:7"
SPLIT = {"parallel": {"latents": 2, "data": 2}}
PLAIN: dict[str, Any] = {"sae": {"name": "topk", "d_sae": 40, "k": 4}, "steps": 20, "batch_size": 64}
ELSEWHERE = "make it first, or let the job wait for the one that does: --sbatch dependency=afterok:JOB"


def job(command: str, *sbatch: str) -> Job:
    return Job.of([command], sbatch, [Path("out")])


@pytest.fixture
def training(tiny_cache: Path) -> Callable[..., TrainConfig]:
    return lambda **changes: TrainConfig.parse({"cache": str(tiny_cache), **PLAIN, **changes})


def check(
    config: TrainConfig,
    out: Path,
    *sbatch: str,
    share: Share = Share(),  # noqa: B008 - a frozen value
    resume: ResumeMode = "auto",
) -> None:
    check_train(job("train", *sbatch), config, out, share, resume)


Make = Callable[..., TrainConfig]


@pytest.mark.parametrize(
    ("sbatch", "count"),
    [([], 1), (["ntasks-per-node=2"], 2), (["nodes=2"], 2), (["nodes=2", "ntasks-per-node=4"], 8)],
)
def test_ranks_are_those_of_parallel(training: Make, tmp_path: Path, sbatch: list[str], count: int) -> None:
    needs = f"parallel: latents 2 x data 2 needs 4 ranks, and there are {count}\n"
    with pytest.raises(ConfigError, match=f"{needs}.*in a job --sbatch ntasks-per-node=4"):
        check(training(**SPLIT), tmp_path, *sbatch)
    check(training(), tmp_path, *sbatch)


@pytest.mark.parametrize("sbatch", [["ntasks-per-node=4"], ["nodes=2", "ntasks-per-node=2"], ["nodes=4"]])
def test_as_many_ranks_as_parallel_needs_are_taken(training: Make, tmp_path: Path, sbatch: list[str]) -> None:
    check(training(**SPLIT), tmp_path, *sbatch)
    check(training(**SPLIT), tmp_path, *sbatch, "array=1-2")  # each task splits the runs of its share


@pytest.mark.parametrize(
    ("sbatch", "share", "problem"),
    [
        (["array=1-2"], Share(), "a stream feeds one process, not 2 shares"),
        ([], Share(1, 3), "a stream feeds one process, not 3 shares"),
        (["ntasks-per-node=2"], Share(), "a stream feeds one process, not 2 ranks"),
    ],
)
def test_a_stream_feeds_one_process(
    toy_config: HarvestConfig, tmp_path: Path, sbatch: list[str], share: Share, problem: str
) -> None:
    (tmp_path / "harvest.yaml").write_text(toy_config.to_yaml())
    config = TrainConfig.parse({**PLAIN, "cache": "stream", "stream": {"harvest": str(tmp_path / "harvest.yaml")}})
    check(config, tmp_path)
    with pytest.raises(ConfigError, match=problem):
        check(config, tmp_path, *sbatch, share=share)
    with pytest.raises(ConfigError, match="a stream needs a local folder, not s3://bucket/runs"):
        check(config, Path("s3://bucket/runs"))
    (tmp_path / "harvest.yaml").write_text(toy_config.model_copy(update={"codec": "int8"}).to_yaml())
    with pytest.raises(ConfigError, match="cannot be streamed: codec: int8"):
        check(config, tmp_path)


def test_a_cache_is_there_or_may_come(training: Make, tmp_path: Path) -> None:
    config = training(cache=str(tmp_path / "cache"))
    with pytest.raises(ConfigError, match=f"cache {tmp_path}/cache is not there yet\n.*{ELSEWHERE}"):
        check(config, tmp_path)
    check(config, tmp_path, LATER)
    with pytest.raises(ConfigError, match="variant 'k=two': 1 mistake"):
        check(training(variants={"grid": {"sae.k": ["two"]}}), tmp_path, LATER)


def test_a_hook_is_in_the_cache(training: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"hook 'blocks.9.hook_resid_post' is not in the cache"):
        check(training(hook="blocks.9.hook_resid_post"), tmp_path)


@pytest.mark.parametrize("trained_on", ["cpu", "cuda"])
def test_folders_of_other_runs_are_refused_whatever_the_device(training: Make, tmp_path: Path, trained_on: str) -> None:
    dtype = "bfloat16" if trained_on == "cuda" else "float32"  # as `auto` means there
    train(training(device="cpu", compute_dtype=dtype), tmp_path)
    check(training(), tmp_path)
    with pytest.raises(ConfigError, match="holds a run of another config") as raised:
        check(training(batch_size=32), tmp_path)
    assert "compute_dtype" not in str(raised.value)
    with pytest.raises(ConfigError, match="already holds a run"):
        check(training(), tmp_path, resume="never")
    check(training(), tmp_path, LATER, resume="never")


def test_a_device_that_only_the_job_has_is_not_looked_for(training: Make, tmp_path: Path) -> None:
    check(training(device="cuda", resident="gpu", compile="cudagraphs"), tmp_path)
    check(training(resident="gpu"), tmp_path)
    with pytest.raises(ConfigError, match="resident: gpu needs a CUDA device"):
        check(training(device="cpu", resident="gpu"), tmp_path)


def changed(config: HarvestConfig, **changes: Any) -> HarvestConfig:
    return HarvestConfig.parse({**config.to_dict(), **changes})


def test_a_harvest_is_checked(toy_config: HarvestConfig, toy_cache: Path, tmp_path: Path) -> None:
    check_harvest(job("harvest", "nodes=2"), toy_config, toy_cache)
    outliers = changed(toy_config, drop_norm_above=3)
    check_harvest(job("harvest"), outliers, tmp_path / "cache")
    with pytest.raises(ConfigError, match="drop_norm_above decides by activations"):
        check_harvest(job("harvest", "ntasks-per-node=2", LATER), outliers, tmp_path / "cache")
    missing = changed(toy_config, dataset={"source": str(tmp_path / "news.jsonl")})
    with pytest.raises(ConfigError, match="there is no file"):
        check_harvest(job("harvest"), missing, tmp_path / "cache")
    check_harvest(job("harvest", LATER), missing, tmp_path / "cache")
    with pytest.raises(ConfigError, match="was started with another config"):
        check_harvest(job("harvest"), changed(toy_config, context_size=64), toy_cache)
    with pytest.raises(ConfigError, match="there is nothing to resume"):
        check_harvest(job("harvest"), toy_config, tmp_path / "cache", "must")


def test_an_evaluation_is_checked(toy_cache: Path, tmp_path: Path) -> None:
    settings = EvaluateConfig.parse({"device": "cuda", "features": None, "metrics": [{"name": "core"}]})
    config = {**PLAIN, "cache": str(toy_cache), "hook": "blocks.1.hook_resid_post", "device": "cpu"}
    (run,) = train(config, tmp_path / "runs")
    check_evaluate(job("evaluate"), [tmp_path / "runs"], settings, None)
    other = settings.model_copy(update={"cache": tmp_path / "cache"})
    with pytest.raises(ConfigError, match=f"the cache of {run} is not at {tmp_path}/cache"):
        check_evaluate(job("evaluate"), [run], other, None)
    (run / COMMITTED).unlink()
    with pytest.raises(ConfigError, match=f"run {run} is not there yet\n.*{ELSEWHERE}"):
        check_evaluate(job("evaluate"), [run], settings, None)
    with pytest.raises(ConfigError, match=f"run {tmp_path}/later is not there yet"):
        check_evaluate(job("evaluate"), [tmp_path / "later"], settings, None)
    check_evaluate(job("evaluate", LATER), [run, tmp_path / "later"], settings, None)


def test_a_study_is_checked(toy_cache: Path, toy_config: HarvestConfig, tmp_path: Path) -> None:
    plain = plain_study(toy_cache)

    def checked(*sbatch: str, **changes: Any) -> None:
        check_study(job("study", *sbatch), StudyConfig.parse(plain | changes), tmp_path)

    checked()
    with pytest.raises(ConfigError, match="parallel: latents 2 x data 2 needs 4 ranks, and there are 1"):
        checked(LATER, train=plain["train"] | SPLIT)
    with pytest.raises(ConfigError, match="arm 'slow'"):
        checked(LATER, arms=[{"name": "slow", "optimizer.lr": "fast"}])
    with pytest.raises(ConfigError, match="this study could not show what it asks"):
        checked(spreads={"explained_variance": 0.1})
    with pytest.raises(ConfigError, match="is not in the cache"):
        checked(train=plain["train"] | {"hook": "blocks.9.hook_resid_post"})
    with pytest.raises(ConfigError, match="is not there yet"):
        checked(cache=str(tmp_path / "cache"))
    checked(LATER, cache=str(tmp_path / "cache"))
    checked(cache=None, harvest=toy_config.to_dict())
    assert not [*tmp_path.iterdir()]
