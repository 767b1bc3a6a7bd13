"""The harvest, from top to bottom: text, windows, forward passes, pools of rows, a sealed cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.batches.shuffle import permutation
from saepipe.data.cache.cache import SPLITS, Cache, Split
from saepipe.data.cache.int8 import Snr
from saepipe.data.cache.writer import CacheWriter
from saepipe.data.folders import artifact
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import describe, make_layout, make_windows
from saepipe.harvest.feed import ContextShards, WindowFeed
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.pools import Cursor, behind_runs, cut_pools
from saepipe.harvest.resume import Resume, check_same_model, look_at
from saepipe.harvest.rows import Rows, RowSource, WindowBatch


def harvest(
    config: HarvestConfig | Mapping[str, Any] | Path | str = HarvestConfig(),  # noqa: B008 - a frozen value
    out: Path | str = "cache",
    *,
    resume: Resume = "auto",
    progress: Progress | None = None,
) -> Cache:
    """Makes, goes on with, or extends the cache at `out`, and opens it.

    Args:
        config: a config, its plain data, or the path of its YAML file.
        out: the cache's folder.
        resume: `auto` goes on or begins; `never` refuses a folder in which something lies; `must` refuses others.
        progress: told where it stands.

    Raises:
        SaepipeError: for what a user can fix; what is on disk by then can be resumed.
    """
    config, out, progress = HarvestConfig.of(config), Path(out), progress or Silent()
    with artifact.writer_lock(out):
        found = look_at(out, config, resume)
        if found.done:
            progress.say(f"{out} is finished already")
            return Cache.open(out)
        lm = load_model(config.model)
        if found.attributes:
            check_same_model(found.attributes, lm.identity, out)
        attributes = dict(found.attributes) or describe(config, lm)
        _fill(out, config, lm, {**attributes, "config": config.to_dict()}, progress)
    cache = Cache.open(out)
    for hook, snr in cache.attributes.get("int8_snr_db", {}).items():
        progress.say(f"int8 at {hook}: {Snr(**snr)}")
    return cache


def _fill(
    out: Path, config: HarvestConfig, lm: LanguageModel, attributes: Mapping[str, Any], progress: Progress
) -> None:
    pool_rows: dict[Split, int] = {"train": config.pool_rows, "heldout": config.shard_rows}
    layout = make_layout(config, lm)
    made = CacheWriter(out, layout, pool_rows, threads=config.encoders, snr_floor=config.int8_snr_floor)
    with closing(made) as writer:
        if _reached(writer, "train").rows < config.num_tokens:
            writer.drop_short_pools()
        writer.start(attributes)

        rows = RowSource(lm, config.hook_points, attributes["norm_limits"])
        # A branch may have moved on since the cache was begun; the commit it was begun with is read to the end.
        windows = make_windows(config, lm, attributes["dataset"]["revision"])
        feed = WindowFeed(windows, config.batch_size, config.heldout_tokens // config.context_size)
        contexts = {split: ContextShards(writer, split, lm.special_ids) for split in SPLITS}

        def shuffled(num_rows: int, pool: int) -> np.ndarray:
            return permutation(num_rows, config.seed, pool).numpy()

        def as_they_come(num_rows: int, _: int) -> np.ndarray:
            return np.arange(num_rows)

        train_batches = feed.train_batches(contexts["train"])
        train = _run("train", train_batches, rows.train, config.num_tokens, shuffled, writer, progress)
        heldout_batches = feed.heldout_batches(contexts["heldout"])
        heldout_rows = len(feed.heldout) * config.context_size
        _run("heldout", heldout_batches, rows.heldout, heldout_rows, as_they_come, writer, progress)

        _say_what_is_short(config, train, heldout_rows, progress)
        for shards in contexts.values():
            shards.close()
        counts = {
            "num_tokens": train.rows,
            "num_dropped": train.dropped,
            "num_contexts": contexts["train"].num_contexts,
            "num_heldout_contexts": contexts["heldout"].num_contexts,
        }
        writer.finish({**attributes, **counts})


def _run(
    split: Split,
    batches: Iterable[WindowBatch],
    forward: Callable[[WindowBatch], Rows],
    limit: int,
    order: Callable[[int, int], np.ndarray],
    writer: CacheWriter,
    progress: Progress,
) -> Cursor:
    """Forward passes of one split for the pools that are not there, up to `limit` rows; where it stands then."""
    pools, pool_rows = writer.pools(split), writer.pool_rows[split]
    done = sum(line["num_rows"] for line in pools)
    progress.start(f"harvest {split}", limit, "tokens", done=done)
    if done:
        progress.say(f"{split}: {done:,} of {limit:,} tokens are there")

    began, bytes_before = time.monotonic(), writer.bytes_written

    def watched(batch: WindowBatch) -> Rows:
        rows = forward(batch)
        megabytes = (writer.bytes_written - bytes_before) / 1e6
        progress.advance(len(rows), **{"MB/s": round(megabytes / (time.monotonic() - began), 2)})
        return rows

    writer.log(split=split, pool=None, rows=0)  # so that the first pool's time can be told
    behind = behind_runs(pools, pool_rows)
    for pool in cut_pools(split, batches, watched, behind, pool_rows=pool_rows, limit=limit, order=order):
        writer.put(pool)
        writer.log(split=split, pool=pool.number, rows=len(pool.order))
    writer.wait()
    progress.finish()
    return _reached(writer, split)


def _reached(writer: CacheWriter, split: Split) -> Cursor:
    """Where the last whole pool ends."""
    pools = writer.pools(split)
    return Cursor.behind(pools[-1], writer.pool_rows[split]) if pools else Cursor()


def _say_what_is_short(config: HarvestConfig, train: Cursor, heldout_rows: int, progress: Progress) -> None:
    if train.rows < config.num_tokens:
        progress.say(f"the corpus ended: {train.rows:,} training tokens stored, {config.num_tokens:,} were asked for")
    if train.dropped:
        progress.say(f"{train.dropped:,} rows were left out for a norm above {config.drop_norm_above} medians")
    if heldout_rows < config.heldout_tokens // config.context_size * config.context_size:
        progress.say(
            f"{heldout_rows:,} held-out positions stored of at most {config.heldout_tokens:,}: the text read holds "
            f"no more at heldout_share {config.heldout_share}"
        )
