"""The threads that fetch what will be read: few of them, since they share one connection to the bucket."""

from __future__ import annotations

from functools import cache

from saepipe.data.workers import Workers

NUM_THREADS = 8
"""Shards and chunks that are fetched at a time."""


@cache
def fetchers() -> Workers:
    """Returns the process's threads for fetching."""
    return Workers(NUM_THREADS, "fetch")
