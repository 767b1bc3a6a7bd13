"""Runs whose rows are harvested while they train: their config, and what a stream cannot give them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.data.ranks.launch import Ranks
from saepipe.data.ranks.share import Share
from saepipe.data.rolling.rolling_cache import RollingCache
from saepipe.data.rolling.rolling_folder import RollingFolder
from saepipe.data.terminal.progress import Progress
from saepipe.train.config import STREAM, TrainConfig
from saepipe.train.config_sections import StreamConfig
from saepipe.train.plan import Planned, by_stream

OpenStream = Callable[[StreamConfig, Path, Progress], AbstractContextManager[RollingCache]]
"""Opens the stream that a config describes, in a folder."""

FOLDER = "stream"
"""Folder of the stream below that of the runs."""


@contextmanager
def opened(
    config: TrainConfig, out: Path, ranks: Ranks, share: Share, open_stream: OpenStream | None, progress: Progress
) -> Iterator[tuple[TrainConfig, dict[Path, Cache]]]:
    """Yields the config with the head of its stream as its cache, and what to open there; without a stream, as it is.

    Raises:
        ConfigError: if the training cannot have a stream.
    """
    check_stream(config, out, ranks, share)
    if config.stream is None:
        yield config, {}
        return
    if open_stream is None:
        raise ConfigError("stream needs a harvest, which this call does not have", hint="use saepipe.train")
    with open_stream(config.stream, out / FOLDER, progress) as cache:
        if (told := config.stream.num_tokens) not in (None, cache.num_tokens):
            problem = f"{config.stream.harvest} has num_tokens {cache.num_tokens:,}, but stream.num_tokens is {told:,}"
            raise ConfigError(problem, hint="leave out stream.num_tokens")
        stream = config.stream.model_copy(update={"num_tokens": cache.num_tokens})
        update = {"cache": cache.path, "shuffle": "pool", "stream": stream}
        yield config.model_copy(update=update), {cache.path: cache}


def check_stream(config: TrainConfig, out: Path, ranks: Ranks, share: Share) -> None:
    """Raises ConfigError if a training cannot have the stream that its config asks for."""
    if config.stream is None:
        if config.cache == STREAM and not STREAM.exists():
            raise ConfigError("cache: stream needs the section `stream`", hint="stream: {harvest: FILE}")
        return
    if ranks.size > 1:
        hint = "train in one process; stream.ranks lets several harvest for it"
        raise ConfigError(f"a stream feeds one process, not {ranks.size} ranks", hint=hint)
    if share.count > 1:
        hint = "train without --share, or a job array"
        raise ConfigError(f"a stream feeds one process, not {share.count} shares", hint=hint)
    if config.cache not in (STREAM, RollingFolder(out / FOLDER).head):
        raise ConfigError(f"cache {config.cache} and stream exclude each other", hint="cache: stream")


def check_streamed(planned: Sequence[Planned]) -> None:
    """Raises ConfigError if runs need more of their stream than passes by once."""
    cache = planned[0].cache
    if not isinstance(cache, RollingCache):
        return
    if len(streams := by_stream(planned)) > 1:
        first, other = (runs[0].variant.folder for runs in streams[:2])
        raise ConfigError(
            f"{first} and {other} read different batches, but a stream passes by once",
            hint="give all runs the same cache, hook, target, batch_size, data_seed and shuffle, or harvest a cache",
        )
    for run in planned:
        _check_rows(run, cache)


def _check_rows(run: Planned, cache: RollingCache) -> None:
    config = run.recipe.config
    if (num_rows := run.recipe.num_steps * config.batch_size) > cache.num_tokens:
        raise ConfigError(
            f"{run.variant.folder} reads {num_rows:,} rows, but the stream has {cache.num_tokens:,}, once",
            hint="a larger num_tokens in the harvest, or fewer steps",
        )
    needed = max(2 * config.batch_size, config.init.b_dec_rows if config.init.b_dec != "zeros" else 0)
    if needed > cache.pool_rows:
        raise ConfigError(
            f"{run.variant.folder} starts from the first {needed:,} rows, but only {cache.pool_rows:,} are kept",
            hint="a larger pool_shards in the harvest, or a smaller batch_size or init.b_dec_rows",
        )
