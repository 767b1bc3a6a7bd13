"""Cost estimate of a harvest, from a short calibration: a few batches through the model, and one encoded chunk."""

from __future__ import annotations

import shutil
import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.cache import codecs
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.int8 import QuantisedRows
from saepipe.data.cache.layout import SPLITS, Layout, Split
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import describe, make_layout, make_windows
from saepipe.harvest.model import load_model
from saepipe.harvest.rows import RowSource, WindowBatch

_BATCHES = 4


@dataclass(frozen=True)
class Plan:
    """Sizes in bytes, time in seconds; the held-out part is counted in full."""

    tokens: int
    heldout_positions: int
    hooks: int
    d_in: int
    shards: int
    raw_bytes: int
    compressed_bytes: int
    compression_ratio: float
    free_disk: int
    fits: bool
    tokens_per_second: float
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan(config: HarvestConfig, out: Path) -> Plan:
    """Checks config, model and data like a harvest, and runs a few batches, but writes nothing."""
    lm = load_model(config.model)
    describe(config, lm)
    rows = RowSource(lm, config.hook_points, {})
    windows = [window for split, window in islice(make_windows(config, lm), 2 * _BATCHES * config.batch_size)]
    batches = [
        WindowBatch.of(first, windows[first : first + config.batch_size])
        for first in range(0, len(windows), config.batch_size)
    ][:_BATCHES]
    rows.train(batches[0])  # the first pass includes one-time setup, so it is not timed
    start = time.perf_counter()
    measured = [rows.train(batch) for batch in batches]
    rate = sum(map(len, measured)) / (time.perf_counter() - start)
    chunk = np.concatenate([part.arrays[Layout.acts(config.hooks[0])] for part in measured])[: config.chunk_rows]

    layout = make_layout(config, lm)
    heldout = config.heldout_tokens // config.context_size * config.context_size
    row_bytes = 2 * lm.d_in * len(config.hooks)
    raw = (config.num_tokens + heldout) * row_bytes
    compressed = int(
        config.num_tokens * row_bytes / _ratio(config.codec, chunk) + heldout * row_bytes / _ratio("lossless", chunk)
    )
    num_rows: dict[Split, int] = {"train": config.num_tokens, "heldout": heldout}
    num_shards = sum(
        layout.row_arrays(split)[Layout.acts(hook, split)].num_shards(num_rows[split])
        for split in SPLITS
        for hook in config.hooks
    )
    free = shutil.disk_usage(next(path for path in (out, *out.resolve().parents) if path.exists())).free
    return Plan(
        tokens=config.num_tokens,
        heldout_positions=heldout,
        hooks=len(config.hooks),
        d_in=lm.d_in,
        shards=num_shards,
        raw_bytes=raw,
        compressed_bytes=compressed,
        compression_ratio=round(raw / compressed, 3),
        free_disk=free,
        fits=free > compressed,
        tokens_per_second=round(rate, 1),
        seconds=round((config.num_tokens + heldout) / rate, 1),
    )


def _ratio(codec: Profile, chunk: np.ndarray) -> float:
    """Compression ratio of bfloat16 bits (rows, d_in): raw bytes over stored bytes."""
    if codec == "int8":
        row = QuantisedRows.empty(1, chunk.shape[1])
        return 2 * chunk.shape[1] / sum(part.nbytes for part in row.parts)
    return chunk.nbytes / len(codecs.encode(codec, chunk))
