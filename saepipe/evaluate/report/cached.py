"""What a cache says of its harvest: how fast it went, norms by position, and the scale of each channel."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.cache.cache import ActivationStats, Cache
from saepipe.data.cache.mapped_rows import MappedRows
from saepipe.data.errors import SaepipeError
from saepipe.data.folders import artifact
from saepipe.train.rundir.load import Run

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_CHUNKS = 512
"""At most so many chunks, spread evenly over the cache, give the norms by position."""
_BINS = 48


@dataclass(frozen=True)
class Pace:
    """The rows between one line of the harvest's log and the next."""

    split: str
    total: int
    """rows in the log up to its end, of both splits"""
    rows: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        return self.rows / self.seconds


@dataclass(frozen=True)
class Norms:
    """|x| of training rows by position in the window. BOS, at position 0, is not among them."""

    hook: str
    first: np.ndarray
    """(num_bins,) int64: the first position of each bin"""
    last: np.ndarray
    """(num_bins,) int64"""
    quantiles: np.ndarray
    """(num_bins, 5): QUANTILES"""
    counts: np.ndarray
    """(num_bins,) int64: rows"""


@dataclass(frozen=True)
class CacheFacts:
    """Of a finished cache."""

    path: Path
    fingerprint: str
    attributes: Mapping[str, Any]
    num_tokens: int
    num_bytes: int
    """of all files that the manifest lists"""
    paces: tuple[Pace, ...]
    norms: Mapping[str, Norms]
    """by hook"""
    channels: Mapping[str, ActivationStats]
    """by hook"""


def read_cache(run: Run) -> CacheFacts | str:
    """Of the cache that a run was trained on, at the run's hook; or why not, in words."""
    path = run.config.cache
    if not artifact.is_committed(path):
        return f"the cache is no longer at {path}"
    try:
        cache = Cache.open(path)
        if cache.fingerprint != run.cache_fingerprint:
            return f"another cache lies at {path} now ({cache.fingerprint[:8]}, not {run.cache_fingerprint[:8]})"
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
    except SaepipeError as error:  # the page is about runs, and says what it could not read
        return f"the cache at {path} cannot be read: {error}"


def _paces(log: Path) -> Iterator[Pace]:
    """Between lines that one process wrote one after another; a line of no rows says when it began."""
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    totals = accumulate(line["rows"] for line in lines)
    for (before, _), (line, total) in pairwise(zip(lines, totals, strict=True)):
        seconds = line["time"] - before["time"]
        if (before["host"], before["pid"]) == (line["host"], line["pid"]) and line["rows"] and seconds > 0:
            yield Pace(line["split"], total, line["rows"], seconds)


def _norms(cache: Cache, hook: str) -> Norms:
    norms, positions = (MappedRows(cache.path, name, cache.files) for name in (f"norm/{hook}", "position"))
    chunks = np.unique(np.linspace(0, norms.num_chunks - 1, _CHUNKS).round().astype(int))
    norm, position = _read(norms, chunks), _read(positions, chunks)
    edges = _edges(int(position.max()))
    bins = np.searchsorted(edges, position, side="right") - 1
    present = [index for index in range(len(edges) - 1) if (bins == index).any()]
    quantiles = [np.quantile(norm[bins == index], QUANTILES) for index in present]
    counts = np.bincount(bins, minlength=len(edges) - 1)[present]
    return Norms(hook, edges[present], edges[1:][present] - 1, np.array(quantiles), counts)


def _read(rows: MappedRows, chunks: np.ndarray) -> np.ndarray:
    """(num_read, ...): the rows of some chunks."""
    size = rows.chunk_rows
    return np.concatenate([rows.read(chunk * size, chunk * size + rows.rows_in(chunk)) for chunk in chunks.tolist()])


def _edges(last: int) -> np.ndarray:
    """(num_bins + 1,) int64 first positions of bins, from 0 to past `last`: single positions, then ever wider bins."""
    grown = np.geomspace(1, last + 1, _BINS + 1).round().astype(np.int64)
    return np.unique(np.concatenate([[0], grown]))
