"""Cost estimate of a harvest, from a short calibration: a few batches through the model, and one encoded chunk."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.cache.layout import SPLITS, Layout, Split
from saepipe.data.folders.disk import room_at
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import describe, make_layout, make_windows
from saepipe.harvest.model import load_model
from saepipe.harvest.rows import RowSource, WindowBatch
from saepipe.harvest.size import Size

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
    size = Size.of(config, lm.d_in)
    compressed = size.stored_bytes(config.codec, chunk)
    num_rows: dict[Split, int] = {"train": size.train_rows, "heldout": size.heldout_rows}
    num_shards = sum(
        layout.row_arrays(split)[Layout.acts(hook, split)].num_shards(num_rows[split])
        for split in SPLITS
        for hook in config.hooks
    )
    free = room_at(out).num_bytes
    return Plan(
        tokens=config.num_tokens,
        heldout_positions=size.heldout_rows,
        hooks=len(config.hooks),
        d_in=lm.d_in,
        shards=num_shards,
        raw_bytes=size.raw_bytes,
        compressed_bytes=compressed,
        compression_ratio=round(size.raw_bytes / compressed, 3),
        free_disk=free,
        fits=free > compressed,
        tokens_per_second=round(rate, 1),
        seconds=round((size.train_rows + size.heldout_rows) / rate, 1),
    )
