"""Opens the cache that a run was trained from, at the length that it had then."""

from __future__ import annotations

from pathlib import Path

from saepipe.data.cache.ancestors import open_length
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.joint_hooks import hooks_of
from saepipe.data.cache.paired_cache import PairedCache
from saepipe.data.errors import ConfigError
from saepipe.data.remote.places import folder_of, refresh
from saepipe.train.rundir.finished_run import Run


def cache_of(run: Run, path: Path | None = None, opened: dict[tuple[Path, str], Cache] | None = None) -> Cache:
    """Returns the cache that a run was trained from, at `path` or its path at training; `opened` keeps open caches.

    If the cache was extended since, this is its earlier length.

    Raises:
        ConfigError: if that path has no cache, or another one, or if the cache does not have the run's hook.
        CorruptDataError: if it is unfinished or damaged.
    """
    path, opened = folder_of(path or run.cache), {} if opened is None else opened
    refresh(path)
    if not path.is_dir():
        raise ConfigError(f"the cache of {run.path} is not at {path}", hint="--set cache=PATH")
    key = (path, run.cache_fingerprint)
    cache = opened[key] = opened[key] if key in opened else open_length(*key)
    if cache.fingerprint != run.cache_fingerprint:
        raise ConfigError(
            f"{run.path} was trained from cache {run.cache_fingerprint[:16]}, but {path} is {cache.fingerprint[:16]}",
            hint="--set cache=PATH of the cache that it was trained from",
        )
    if run.plain.get("other_cache"):
        cache = _paired(run, cache)
    if {*hooks_of(run.hook), *([run.target] if run.target else ())} - {*cache.hooks}:
        raise ConfigError(f"{run.path} was trained at {run.sites}; {path} has {', '.join(cache.hooks)}")
    return cache


def _paired(run: Run, cache: Cache) -> PairedCache:
    """Returns the cache together with the other model's, of a crosscoder that reads both."""
    path, fingerprint = folder_of(run.plain["other_cache"]), run.plain["other_fingerprint"]
    refresh(path)
    if not path.is_dir():
        raise ConfigError(f"the other cache of {run.path} is not at {path}", hint="put it back, or train again")
    other = open_length(path, fingerprint)
    if other.fingerprint != fingerprint:
        raise ConfigError(f"{run.path} was trained from other_cache {fingerprint[:16]}, but {path} is another")
    return PairedCache.of(cache, other)
