"""The size of a cache before it is made, and whether the disk will hold it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from saepipe.data.bucket_address import mirrored
from saepipe.data.cache import codecs
from saepipe.data.cache.codecs import Profile
from saepipe.data.cache.int8 import QuantisedRows
from saepipe.data.cache.layout import Layout
from saepipe.data.folders.disk import require_room, room_at
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import first_batch
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.row_source import RowSource


@dataclass(frozen=True)
class Size:
    """Rows of a cache, and the bytes of their activations; the held-out part is counted in full."""

    train_rows: int
    heldout_rows: int
    row_bytes: int
    """Of one row at all hooks, in bfloat16."""

    @classmethod
    def of(cls, config: HarvestConfig, widths: Mapping[str, int]) -> Size:
        heldout = config.heldout_tokens // config.context_size * config.context_size
        return cls(config.num_tokens, heldout, 2 * sum(widths.values()))

    @property
    def raw_bytes(self) -> int:
        return (self.train_rows + self.heldout_rows) * self.row_bytes

    def stored_bytes(self, codec: Profile, chunk: np.ndarray) -> int:
        """Bytes on disk, by the ratio at which a chunk (rows, d_in) of bfloat16 bits is compressed."""
        train = self.train_rows / compression_ratio(codec, chunk)
        return int((train + self.heldout_rows / compression_ratio("lossless", chunk)) * self.row_bytes)


def check_room(config: HarvestConfig, lm: LanguageModel, out: Path, stored_rows: int, revision: str | None) -> None:
    """Refuses a harvest that the disk cannot hold; runs one batch through the model if compression may decide it.

    A bucket has no end that could be known.

    Args:
        config: the harvest.
        lm: its model.
        out: the cache's folder.
        stored_rows: training and held-out rows that are stored already.
        revision: commit of the dataset.

    Raises:
        OutOfSpaceError: if what is missing needs more than is free.
    """
    if mirrored(out):
        return
    size = Size.of(config, lm.widths(config.hook_points))
    missing = max(0, 1 - stored_rows / max(1, size.train_rows + size.heldout_rows))
    if missing * size.raw_bytes <= room_at(out).num_bytes:
        return
    with closing(RowSource(lm, config.hook_points, {})) as source:
        rows = source.train(first_batch(config, lm, revision))
    chunk = rows.arrays[Layout.acts(config.hooks[0])][: config.chunk_rows]
    needed = int(missing * size.stored_bytes(config.codec, chunk))
    what = f"{'the rest of ' if stored_rows else ''}the cache {out}, of {config.num_tokens:,} tokens,"
    require_room(out, needed, what, "ask for fewer num_tokens or hooks, or codec: int8")


def compression_ratio(codec: Profile, chunk: np.ndarray) -> float:
    """Compression ratio of bfloat16 bits (rows, d_in): raw bytes over stored bytes."""
    if codec == "int8":
        row = QuantisedRows.empty(1, chunk.shape[1])
        return 2 * chunk.shape[1] / sum(part.nbytes for part in row.parts)
    return chunk.nbytes / len(codecs.encode(codec, chunk))
