"""Facts about a cache: throughput of its harvest, norms by position, and the scale of each channel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.cache.ancestors import open_length
from saepipe.data.cache.cache import ActivationStats, Cache
from saepipe.data.cache.layout import Layout
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import SaepipeError
from saepipe.data.folders import artifact
from saepipe.data.remote.places import refresh
from saepipe.train.rundir.finished_run import Run

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CHUNKS = 512
"""Largest number of chunks, evenly spread over the cache, from which norms by position are computed."""
_BINS = 48


@dataclass(frozen=True)
class Pace:
    """Rows between two successive lines of the harvest's log."""

    split: str
    total: int
    """rows of both splits, up to the end of this interval"""
    rows: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.rows / self.seconds


@dataclass(frozen=True)
class Norms:
    """|x| of training rows by position in the window. BOS, at position 0, is excluded."""

    hook: str
    first: np.ndarray
    """(num_bins,) int64: first position of each bin"""
    last: np.ndarray
    """(num_bins,) int64: last position of each bin"""
    quantiles: np.ndarray
    """(num_bins, 5): values at QUANTILES"""
    counts: np.ndarray
    """(num_bins,) int64: number of rows"""


@dataclass(frozen=True)
class CacheFacts:
    """Facts about a finished cache."""

    path: Path
    fingerprint: str
    attributes: Mapping[str, Any]
    num_tokens: int
    num_bytes: int
    """size of all files in the manifest"""
    paces: tuple[Pace, ...]
    norms: Mapping[str, Norms]
    """by hook"""
    channels: Mapping[str, ActivationStats]
    """by hook"""


def read_cache(run: Run) -> CacheFacts | str:
    """Reads the facts about the cache that a run was trained on, or returns why they cannot be read."""
    path = run.cache
    try:
        refresh(path)
        if not path.is_dir():
            return f"the cache is no longer at {path}"
        cache = open_length(path, run.cache_fingerprint)
        if cache.fingerprint != run.cache_fingerprint:
            return f"another cache is now at {path} ({cache.fingerprint[:8]}, not {run.cache_fingerprint[:8]})"
        return CacheFacts(
            path=path,
            fingerprint=cache.fingerprint,
            attributes=cache.attributes,
            num_tokens=cache.num_tokens,
            num_bytes=sum(entry["bytes"] for entry in cache.files.values()),
            paces=tuple(_paces(path / artifact.LOG / "harvest.jsonl")),
            norms={hook: _norms(cache, hook) for hook in cache.hooks},
            channels={hook: cache.stats(hook) for hook in cache.hooks},
        )
    except SaepipeError as error:  # the page is about the runs, so it reports what it could not read
        return f"the cache at {path} cannot be read: {error}"


def _paces(log: Path) -> Iterator[Pace]:
    """Yields the pace between successive lines of one process; a line with 0 rows marks its start."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    totals = accumulate(line["rows"] for line in lines)
    for (before, _), (line, total) in pairwise(zip(lines, totals, strict=True)):
        seconds = line["time"] - before["time"]
        if (before["host"], before["pid"]) == (line["host"], line["pid"]) and line["rows"] and seconds > 0:
            yield Pace(line["split"], total, line["rows"], seconds)


def _norms(cache: Cache, hook: str) -> Norms:
    norms, positions = cache.array(Layout.norm(hook)), cache.array(Layout.POSITION)
    chunks = np.unique(np.linspace(0, norms.num_chunks - 1, _CHUNKS).round().astype(int))
    norm, position = _read(norms, chunks), _read(positions, chunks)
    edges = _edges(int(position.max()))
    bins = np.searchsorted(edges, position, side="right") - 1
    present = [index for index in range(len(edges) - 1) if (bins == index).any()]
    quantiles = [np.quantile(norm[bins == index], QUANTILES) for index in present]
    counts = np.bincount(bins, minlength=len(edges) - 1)[present]
    return Norms(hook, edges[present], edges[1:][present] - 1, np.array(quantiles), counts)


def _read(rows: MappedRows, chunks: np.ndarray) -> np.ndarray:
    """Reads the rows of some chunks, (num_rows, ...)."""
    size = rows.chunk_rows
    return np.concatenate([rows.read(chunk * size, chunk * size + rows.rows_in(chunk)) for chunk in chunks.tolist()])


def _edges(last: int) -> np.ndarray:
    """(num_bins + 1,) int64 edges from 0 to past `last`: bins of single positions, then ever wider ones."""
    growing = np.geomspace(1, last + 1, _BINS + 1).round().astype(np.int64)
    return np.unique(np.concatenate([[0], growing]))
