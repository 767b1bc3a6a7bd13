"""Cost estimate of a harvest: the text counted, a few batches through the model, and one encoded chunk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.batches.rank_memory import RankMemory, measured_memory
from saepipe.data.bucket_address import address_of
from saepipe.data.cache.layout import SPLITS, Layout, Split
from saepipe.data.folders.disk import room_at
from saepipe.data.ranks.launch import Ranks
from saepipe.data.remote.places import folder_of
from saepipe.data.terminal.display import readable_bytes, readable_time
from saepipe.harvest.auto_settings import settle
from saepipe.harvest.bos_token import bos_note, with_bos
from saepipe.harvest.bucket_requests import num_writes
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import describe, make_layout, make_windows
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.openings import opening_sentence
from saepipe.harvest.over_ranks import check_ranks
from saepipe.harvest.pass_workers import PassWorkers
from saepipe.harvest.rank_plan import RankPlan, rank_memory
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.rows import Rows, WindowBatch
from saepipe.harvest.size import Size
from saepipe.harvest.text_size import COUNT_SECONDS, Found, TextSize, count_rows

_BATCHES = 4


@dataclass(frozen=True)
class Plan:
    """Sizes in bytes, time in seconds, of the rows that the text gives; if it was not counted, of those asked for."""

    tokens: int
    tokens_asked_for: int
    text: Found
    tokens_counted: int
    heldout_positions: int
    hooks: int
    widths: dict[str, int]
    batch_size: int
    attention: str
    shards: int
    raw_bytes: int
    compressed_bytes: int
    compression_ratio: float
    free_disk: int
    fits: bool
    tokens_per_second: float
    seconds: float
    bos_note: str | None
    openings: dict[str, Any] | None
    memory: RankMemory
    over_ranks: RankPlan
    requests: int | None
    """that write into a bucket; None for a folder"""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def page(self) -> dict[str, str]:
        """Returns a sentence for each part of the cost, for people."""
        asked, counted = f"{self.tokens_asked_for:,}", f"{self.tokens_counted:,}"
        tokens = {
            "enough": f"{asked}, as asked for: the text has that many",
            "all": f"{counted}, not the {asked} asked for: the text has no more",
            "some": f"{asked} asked for; whether the text has that many is not known, but it has at least {counted}",
        }
        channels = ", ".join(map(str, dict.fromkeys(self.widths.values())))
        at_hooks = f"at {self.hooks} hook{'s' if self.hooks > 1 else ''} of {channels} channels"
        stored, raw = readable_bytes(self.compressed_bytes), readable_bytes(self.raw_bytes)
        return {
            "tokens": tokens[self.text],
            "held out": f"{self.heldout_positions:,} positions",
            "activations": f"{stored} in {self.shards} shards ({raw} of bfloat16), {at_hooks}",
            "disk": f"{readable_bytes(self.free_disk)} free{'' if self.fits else ': NOT ENOUGH'}",
            "passes": f"{self.batch_size:,} contexts each, attention {self.attention}",
            "time": f"{readable_time(self.seconds)}, at {self.tokens_per_second:,.0f} tokens per second",
            "memory": f"{self.memory.sentence()} a rank{'' if self.memory.fits() else ': NOT ENOUGH'}",
        } | {name: sentence for name, sentence in self._further() if sentence}

    def _further(self) -> Iterator[tuple[str, str | None]]:
        if self.over_ranks.ranks > 1 or self.over_ranks.cost:
            yield "ranks", self.over_ranks.sentence()
        yield "bucket", None if self.requests is None else f"{self.requests:,} requests that write"
        yield "BOS", self.bos_note
        yield "opening", opening_sentence(self.openings)


def plan(config: HarvestConfig, out: Path, *, ranks: int = 1, count_seconds: float = COUNT_SECONDS) -> Plan:
    """Checks config, model and data like a harvest, counts the text, and runs a few batches, but writes nothing.

    Args:
        config: the harvest.
        out: the cache's folder, or its address in a bucket.
        ranks: number of ranks to plan, on machines like this one.
        count_seconds: time after which the text is not counted further.

    Raises:
        ConfigError: as `harvest`, and for what several ranks cannot do.
    """
    check_ranks(config, Ranks(0, ranks, 0, ranks))
    config, lm = settle(config, with_bos(load_model(config.model), config.bos_token))
    attributes = describe(config, lm)
    revision = attributes["dataset"]["revision"]
    with measured_memory(lm.model.device) as peak:
        measured, rate = _time_batches(config, lm, revision)
    chunk = np.concatenate([part.arrays[Layout.acts(config.hooks[0])] for part in measured])[: config.chunk_rows]
    text = count_rows(config, lm, revision, seconds=count_seconds)
    size = _size(config, lm, text)
    compressed = size.stored_bytes(config.codec, chunk)
    free = room_at(folder_of(out)).num_bytes
    seconds, layout = (size.train_rows + size.heldout_rows) / rate, make_layout(config, lm)
    ratio, reading = size.raw_bytes / compressed, _reading_seconds(size, text)
    over_ranks = RankPlan.of(config, ranks, (size.train_rows, size.heldout_rows), compressed, (seconds, reading))
    train_shards, heldout_shards = (-(-rows // config.shard_rows) for rows in (size.train_rows, size.heldout_rows))
    writes = num_writes(layout, train_shards, heldout_shards, over_ranks.pools, ratio, ranks)
    return Plan(
        tokens=size.train_rows,
        tokens_asked_for=config.num_tokens,
        text=text.found,
        tokens_counted=text.train_rows,
        heldout_positions=size.heldout_rows,
        hooks=len(config.hooks),
        widths=lm.widths(config.hook_points),
        batch_size=config.contexts_per_pass,
        attention=config.model.attention,
        shards=_num_shards(config, layout, size),
        raw_bytes=size.raw_bytes,
        compressed_bytes=compressed,
        compression_ratio=round(ratio, 3),
        free_disk=free,
        fits=free > compressed or address_of(out) is not None,
        tokens_per_second=round(rate, 1),
        seconds=round(seconds, 1),
        bos_note=bos_note(config, lm),
        openings=attributes["openings"],
        memory=rank_memory(config, lm, peak, ratio),
        over_ranks=over_ranks,
        requests=writes if address_of(out) else None,
    )


def _reading_seconds(size: Size, text: TextSize) -> float:
    """Returns the time to read all of the text, at the speed at which it was counted."""
    return text.seconds * size.train_rows / max(1, text.train_rows)


def _time_batches(config: HarvestConfig, lm: LanguageModel, revision: str | None) -> tuple[list[Rows], float]:
    """Returns the rows of the first batches, and the rows per second."""
    windows = [window for _, window in islice(make_windows(config, lm, revision), _BATCHES * config.contexts_per_pass)]
    firsts = range(0, len(windows), config.contexts_per_pass)
    batches = [WindowBatch.of(first, windows[first : first + config.contexts_per_pass]) for first in firsts]
    with closing(RowSource(lm, config.hook_points, {})) as source, closing(PassWorkers(source)) as passes:
        passes.start(batches[0], "train").wait()  # includes one-time setup, so it is not timed
        start = time.perf_counter()
        pending = [passes.start(batch, "train") for batch in batches]
        measured = [rows.wait() for rows in pending]
        return measured, sum(map(len, measured)) / (time.perf_counter() - start)


def _size(config: HarvestConfig, lm: LanguageModel, text: TextSize) -> Size:
    size = Size.of(config, lm.widths(config.hook_points))
    if text.found == "some":
        return size
    return replace(size, train_rows=text.train_rows, heldout_rows=text.heldout_rows)


def _num_shards(config: HarvestConfig, layout: Layout, size: Size) -> int:
    """Number of shard files, training and held-out, at all hooks."""
    num_rows: dict[Split, int] = {"train": size.train_rows, "heldout": size.heldout_rows}
    return sum(
        layout.row_arrays(split)[Layout.acts(hook, split)].num_shards(num_rows[split])
        for split in SPLITS
        for hook in config.hooks
    )
