"""The cache that a run was trained from, found and checked."""

from __future__ import annotations

from pathlib import Path

from saepipe.data.cache.cache import Cache
from saepipe.data.errors import ConfigError
from saepipe.train.rundir.load import Run


def cache_of(run: Run, path: Path | None = None, opened: dict[Path, Cache] | None = None) -> Cache:
    """The cache that a run was trained from: at `path`, or where it was then; `opened` keeps what is open.

    Raises:
        ConfigError: if it is not there, or another cache is.
        CorruptDataError: if it is unfinished or damaged.
    """
    path, opened = path or run.config.cache, {} if opened is None else opened
    if not path.is_dir():
        raise ConfigError(f"the cache of {run.path} is not at {path}", hint="--set cache=PATH")
    cache = opened[path] = opened.get(path) or Cache.open(path)
    if cache.fingerprint != run.cache_fingerprint:
        raise ConfigError(
            f"{run.path} was trained from cache {run.cache_fingerprint[:16]}, but {path} is {cache.fingerprint[:16]}",
            hint="--set cache=PATH of the cache that it was trained from",
        )
    if run.hook not in cache.hooks:
        raise ConfigError(f"{run.path} was trained at {run.hook}; {path} has {', '.join(cache.hooks)}")
    return cache
