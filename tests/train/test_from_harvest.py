"""Trainings that a stream cannot feed are refused before any of its pools is made."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from helpers.killed_training import KillAfter, Killed
from helpers.rolling_pools import HOOKS, NUM_ROWS, begun_folder, rolling_cache
from saepipe.data.errors import ConfigError, Stopped
from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.share import Share
from saepipe.data.rolling.rolling_cache import RollingCache
from saepipe.data.rolling.rolling_folder import RollingFolder
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.train.config import TrainConfig
from saepipe.train.config_sections import StreamConfig
from saepipe.train.from_harvest import check_streamed, opened
from saepipe.train.plan import plan_runs
from saepipe.train.run import train

Make = Callable[..., TrainConfig]
STREAM = {"cache": "stream", "stream": {"harvest": "harvest.yaml"}, "hook": HOOKS[0]}


@contextmanager
def open_stream(settings: StreamConfig, out: Path, progress: Progress) -> Iterator[RollingCache]:
    yield rolling_cache(RollingFolder(out) if out.exists() else begun_folder(out))


def planned(
    config: TrainConfig,
    out: Path,
    ranks: Ranks = Ranks(),  # noqa: B008 - a frozen value
    share: Share = Share(),  # noqa: B008
) -> TrainConfig:
    """Returns the config as it is trained, after all checks."""
    with opened(config, out, ranks, share, open_stream, Silent()) as (streamed, caches):
        check_streamed(plan_runs(streamed, out, None, caches))
    return streamed


def test_the_config_of_a_run_names_head_and_length(config: Make, tmp_path: Path) -> None:
    ready = config(**STREAM, steps=NUM_ROWS // 17)
    streamed = planned(ready, tmp_path)
    assert streamed.cache == tmp_path / "stream" / "head"
    assert streamed.shuffle == "pool"
    assert streamed.stream is not None
    assert streamed.stream.num_tokens == NUM_ROWS
    assert TrainConfig.parse(streamed.to_dict()) == streamed
    assert planned(streamed, tmp_path) == streamed  # the config.yaml of a run is a config, too


def test_the_identity_has_the_length_alone(config: Make) -> None:
    stream = {"harvest": "a.yaml", "gb": 3, "num_tokens": 10_000}
    first = config(**{**STREAM, "stream": stream})
    other = config(**{**STREAM, "stream": {**stream, "harvest": "b.yaml", "gb": 5, "ranks": 2}})
    longer = config(**{**STREAM, "stream": {**stream, "num_tokens": 20_000}})
    assert first.run_id("") == other.run_id("") != longer.run_id("")
    assert config().run_id("") not in (first.run_id(""), config(shuffle="pool").run_id(""))
    assert not {"stream", "shuffle"} & config().identity().keys()


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"steps": 218}, "base/seed-0 reads 3,706 rows, but the stream has 3,700, once"),
        ({"batch_size": 600, "steps": 3}, "starts from the first 1,200 rows, but only 1,024 are kept"),
        ({"init": {"b_dec_rows": 2000}}, "starts from the first 2,000 rows, but only 1,024 are kept"),
        ({"variants": {"grid": {"data_seed": [0, 1]}}}, "data_seed=0/seed-0 and data_seed=1/seed-0 read different"),
        ({"variants": {"grid": {"batch_size": [16, 17]}}}, "read different batches, but a stream passes by once"),
        ({"variants": [{"stream.gb": 3}]}, "variant 'gb=3' sets 'stream.gb'"),
        ({"cache": "elsewhere"}, "cache elsewhere and stream exclude each other"),
        ({"stream": {"harvest": "a.yaml", "num_tokens": 50}}, "has num_tokens 3,700, but stream.num_tokens is 50"),
        ({"stream": None}, "cache: stream needs the section `stream`"),
    ],
)
def test_what_a_stream_cannot_give_is_refused(
    config: Make, tmp_path: Path, changes: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        planned(config(**{**STREAM, **changes}), tmp_path)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"resident": "ram"}, "resident: ram keeps a whole cache in memory"),
        ({"kl_tail": 0.1}, "a kl_tail reads windows of the whole text"),
        ({"steps": None, "epochs": 2}, "more than one epoch would read rows that are gone"),
        ({"hook": None, "hooks": HOOKS, "other_cache": "other"}, "other_cache would have to be a stream"),
    ],
)
def test_a_config_that_contradicts_a_stream_is_refused(config: Make, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        config(**{**STREAM, **changes})


def test_it_feeds_one_process(config: Make, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a stream feeds one process, not 2 ranks"):
        planned(config(**STREAM), tmp_path, Ranks(rank=0, size=2))
    with pytest.raises(ConfigError, match="a stream feeds one process, not 8 shares"):
        planned(config(**STREAM), tmp_path, share=Share(2, 8))
    without_harvest = opened(config(**STREAM), tmp_path, Ranks(), Share(), None, Silent())
    with pytest.raises(ConfigError, match="needs a harvest, which this call does not have"), without_harvest:
        pass


@contextmanager
def never() -> Iterator[Callable[[], bool]]:
    """A harvest that goes on for ever, and makes no pool."""
    yield lambda: True


@contextmanager
def open_endless_stream(settings: StreamConfig, out: Path, progress: Progress) -> Iterator[RollingCache]:
    yield rolling_cache(begun_folder(out), never)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, Stopped), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_ends_a_wait_for_rows(config: Make, tmp_path: Path, number: int, error: type[BaseException]) -> None:
    """60 batches come from the head; then the training waits."""

    class SignalSoon(Silent):
        steps = 0

        def advance(self, amount: int, *, of: str = "", **figures: float) -> None:
            self.steps += amount > 0
            if self.steps == 60:
                Timer(0.3, os.kill, (os.getpid(), number)).start()

    ready = config(**STREAM, steps=100, checkpoint_every=1000)
    with pytest.raises(error, match="at step 60 of 100"):
        train(ready, tmp_path, progress=SignalSoon(), open_stream=open_endless_stream)
    assert [path.name for path in (tmp_path / "base" / "seed-0" / "checkpoints").iterdir()] == ["60"]


def test_an_error_ends_a_wait_for_rows(config: Make, tmp_path: Path) -> None:
    """Threads that decode ahead wait for a pool that never comes; without an end to that, this test has none."""
    with pytest.raises(Killed):
        train(config(**STREAM, steps=100), tmp_path, progress=KillAfter(20), open_stream=open_endless_stream)
