"""Opens the stream of a training: harvests its head, and gives rows behind it while they are harvested."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from saepipe.data.bucket_address import mirrored
from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import write_json
from saepipe.data.folders.disk import require_room
from saepipe.data.remote.places import folder_of, writer_lock
from saepipe.data.rolling.open_pools import OpenPools
from saepipe.data.rolling.rolling_cache import RollingCache
from saepipe.data.rolling.rolling_folder import RollingFolder
from saepipe.data.terminal.progress import Progress
from saepipe.evaluate.streaming.harvest_process import harvesting
from saepipe.evaluate.streaming.head import harvest_config, head_config
from saepipe.evaluate.streaming.space import Space
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.rolling import harvest_pools
from saepipe.harvest.run import harvest
from saepipe.train.config_sections import StreamConfig
from saepipe.train.step.allocator import return_freed_memory

_SETTINGS = "stream.json"


@contextmanager
def open_stream(settings: StreamConfig, out: Path, progress: Progress) -> Iterator[RollingCache]:
    """Opens the stream in the folder `out`; a process of its own harvests while its rows are needed.

    Raises:
        ConfigError: if the settings suit no stream, or `out` is in a bucket.
        OutOfSpaceError: if the disk will not hold the pools.
        SaepipeError: as `harvest` does, for the head.
    """
    config, folder = checked_harvest(settings, out), RollingFolder(out, settings.pools)
    with writer_lock(folder.path):
        head = _head(config, folder, progress)
        space = Space.of(settings, config, head.widths)
        progress.say(space.sentence())
        missing = space.pools_bytes - len(folder.stored()) * space.pool_bytes
        require_room(folder.pools, missing, f"the stream {folder.path}", "a smaller stream.gb")
        where = str(settings.pools.resolve()) if settings.pools else None
        plain = {"most_pools": space.most_pools, "pools": where, "harvest": config.to_dict()}
        write_json(folder.path / _SETTINGS, plain)
        pools = OpenPools(folder, config.pool_rows, config.num_tokens)
        yield RollingCache.of(head, pools, partial(harvesting, folder, settings.ranks))


def checked_harvest(settings: StreamConfig, out: Path) -> HarvestConfig:
    """Returns the config of the harvest that feeds a training to `out`.

    Raises:
        ConfigError: if it suits no stream, or `out` is in a bucket.
    """
    if address := mirrored(folder_of(out)):
        hint = "--out a folder; saepipe push sends finished runs"
        raise ConfigError(f"a stream needs a local folder, not {address}", hint=hint)
    return harvest_config(settings)


def _head(config: HarvestConfig, folder: RollingFolder, progress: Progress) -> Cache:
    head = harvest(head_config(config), folder.head, progress=progress)
    if head.num_tokens < config.pool_rows:
        raise ConfigError(
            f"the text has only {head.num_tokens:,} training tokens, less than one pool of {config.pool_rows:,}",
            hint="harvest a cache of it, or set a smaller pool_shards",
        )
    gc.collect()  # the language model
    return_freed_memory()
    return head


def run_harvest(path: Path, progress: Progress) -> None:
    """Harvests the pools of an open stream; the process that `harvesting` starts."""
    plain = json.loads((path / _SETTINGS).read_text())
    folder = RollingFolder(path, Path(plain["pools"]) if plain["pools"] else None)
    harvest_pools(folder, HarvestConfig.parse(plain["harvest"]), plain["most_pools"], progress)
