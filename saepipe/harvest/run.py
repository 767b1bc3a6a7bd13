"""The harvest from start to end: text, windows, forward passes, pools of rows, a sealed cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from saepipe.data.batches.shuffle import permutation
from saepipe.data.cache.ancestors import keep_ancestor, relink
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.int8 import Snr
from saepipe.data.cache.layout import SPLITS, Split
from saepipe.data.cache.writer import CacheWriter
from saepipe.data.errors import Stopped
from saepipe.data.folders import artifact
from saepipe.data.folders.resume_mode import ResumeMode
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.harvest.auto_settings import chosen, settle
from saepipe.harvest.bos_token import bos_note, with_bos
from saepipe.harvest.chat import ChatText
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import chat_text, describe, make_layout, make_windows
from saepipe.harvest.feed import ContextShards, WindowFeed
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.openings import opening_sentence
from saepipe.harvest.pass_workers import PassWorkers
from saepipe.harvest.pools import Position, SplitSpec, cut_pools, stored_runs
from saepipe.harvest.resume import check_same_model, inspect_folder
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.rows import PendingRows, Rows, WindowBatch
from saepipe.harvest.size import check_room
from saepipe.harvest.text_marks import TextMarks


def harvest(
    config: HarvestConfig | Mapping[str, Any] | Path | str = HarvestConfig(),  # noqa: B008 - a frozen value
    out: Path | str = "cache",
    *,
    resume: ResumeMode = "auto",
    progress: Progress | None = None,
) -> Cache:
    """Makes, resumes or extends the cache at `out`, and opens it.

    Args:
        config: a config, its plain data, or the path of its YAML file.
        out: the cache's folder.
        resume: `auto` resumes or starts; `never` refuses a folder that holds a cache, `must` one that does not.
        progress: receives progress and messages.

    Raises:
        SaepipeError: for problems that a user can fix; the data on disk by then can be resumed.

    Example:
        >>> cache = sp.harvest({"dataset": {"source": "news.jsonl"}, "num_tokens": "2M"}, "cache")
        >>> cache.shape  # (num_tokens, d_in)
    """
    config, out, progress = HarvestConfig.of(config), Path(out), progress or Silent()
    with artifact.writer_lock(out):
        folder = inspect_folder(out, config, resume)
        if folder.done:
            progress.say(f"{out} is finished already")
            return Cache.open(out)
        config, lm = _settled(folder.settings, progress)
        if folder.attributes:
            lm = replace(lm, stored_special_ids=frozenset(folder.attributes["special_ids"]))
            check_same_model(folder.attributes, lm.identity, out, progress)
        attributes = dict(folder.attributes) or _described(config, lm, progress)
        _fill(out, config, lm, {**attributes, "config": folder.config or config.to_dict()}, progress)
    finished = Cache.open(out)
    for hook, snr in finished.attributes.get("int8_snr_db", {}).items():
        progress.say(f"int8 at {hook}: {Snr(**snr)}")
    return finished


def _settled(config: HarvestConfig, progress: Progress) -> tuple[HarvestConfig, LanguageModel]:
    """Loads the model, and replaces `auto` in the settings of a new cache."""
    settled, lm = settle(config, with_bos(load_model(config.model), config.bos_token))
    if sentence := chosen(config, settled):
        progress.say(sentence)
    return settled, lm


def _described(config: HarvestConfig, lm: LanguageModel, progress: Progress) -> dict[str, Any]:
    """Returns the attributes of a new cache, and says what windows begin with and what that costs."""
    attributes = describe(config, lm)
    for sentence in (bos_note(config, lm), opening_sentence(attributes["openings"])):
        if sentence:
            progress.say(sentence)
    return attributes


def _fill(
    out: Path, config: HarvestConfig, lm: LanguageModel, attributes: Mapping[str, Any], progress: Progress
) -> None:
    """Makes the pools that are missing, and seals the cache."""
    marks = TextMarks.of(out, config.dataset.source)
    if marks.num_unmarked:
        progress.say(f"{out} was begun by a version that kept no digest of the text: the text is not compared")
    with ExitStack() as stack:
        writer = stack.enter_context(closing(_writer(out, config, lm)))
        rows = RowSource(lm, config.hook_points, attributes["norm_limits"], progress.say)
        stack.enter_context(closing(rows))
        passes = stack.enter_context(closing(PassWorkers(rows)))
        stack.enter_context(_keeping_pools(writer, config, progress))
        if _end_position(writer, "train").rows < config.num_tokens:
            writer.drop_short_pools()
        stored = sum(line["num_rows"] for split in SPLITS for line in writer.pools(split))
        check_room(config, lm, out, stored, attributes["dataset"]["revision"])

        start = _starter(writer, attributes, progress)
        nulls: list[int] = []
        chat = chat_text(config, lm)
        feed = _feed(config, lm, attributes, nulls, chat)
        contexts = {split: ContextShards(writer, split, lm.special_ids) for split in SPLITS}

        batches = contexts["train"].recorded(marks.checked(feed.train_batches()))
        _run(_shuffled_split(config), batches, passes, start, writer, progress)
        start()  # if all training rows were stored already
        # The last training pool is written while held-out windows go through the model.
        heldout = _heldout_split(config, len(feed.heldout))
        batches = contexts["heldout"].recorded(feed.heldout_batches())
        _run(heldout, batches, passes, start, writer, progress)
        writer.wait()

        train = _end_position(writer, "train")
        _report_shortfalls(config, train, heldout.limit, progress)
        if num_nulls := sum(number < feed.num_documents for number in nulls):
            progress.say(f"left out {num_nulls:,} of {feed.num_documents:,} documents, which have no value")
        if chat and chat.num_lost:
            progress.say(
                f"the chat template leaves out or changes {chat.num_lost:,} of the {chat.num_turns:,} turns of the "
                f"{config.dataset.chat} that were read; their tokens are not stored"
            )
        for shards in contexts.values():
            shards.close()
        counts = {
            "num_tokens": train.rows,
            "num_dropped": train.dropped,
            "num_contexts": contexts["train"].num_contexts,
            "num_heldout_contexts": contexts["heldout"].num_contexts,
        }
        writer.finish({**attributes, **counts})
    relink(out, artifact.read_manifest(out))


def _writer(out: Path, config: HarvestConfig, lm: LanguageModel) -> CacheWriter:
    pool_rows: dict[Split, int] = {"train": config.pool_rows, "heldout": config.shard_rows}
    layout = make_layout(config, lm)
    return CacheWriter(out, layout, pool_rows, threads=config.encoders, snr_floor=config.int8_snr_floor)


def _starter(writer: CacheWriter, attributes: Mapping[str, Any], progress: Progress) -> Callable[[], None]:
    """Returns a function that begins to write at its first call, and removes what will be made again.

    It is called only after the text of the stored pools was compared.
    """

    @cache
    def start() -> None:
        out = writer.folder
        if artifact.is_committed(out):
            progress.say(f"{out} is extended; for runs trained from it, it is kept as it was: {keep_ancestor(out)}")
        writer.start(attributes)

    return start


def _feed(
    config: HarvestConfig, lm: LanguageModel, attributes: Mapping[str, Any], nulls: list[int], chat: ChatText | None
) -> WindowFeed:
    """Returns the windows of the text; the numbers of documents without a value are added to `nulls` as they come."""
    # A branch may have moved since the harvest was started, but it reads the same commit to the end.
    windows = make_windows(config, lm, attributes["dataset"]["revision"], nulls, chat)
    num_heldout = config.heldout_tokens // config.context_size
    # A cache that was begun without digests stays without, so that a repair of it gives the same fingerprint.
    has_marks = "probe" in attributes["model"]
    marks = {"digest": has_marks, "marks_stored": chat is not None}
    return WindowFeed(windows, config.contexts_per_pass, num_heldout, **marks)


def _shuffled_split(config: HarvestConfig) -> SplitSpec:
    """The training rows, each pool shuffled by a permutation of its own."""

    def order(num_rows: int, pool: int) -> np.ndarray:
        return permutation(num_rows, config.seed, pool).numpy()

    return SplitSpec("train", config.pool_rows, config.num_tokens, order)


def _heldout_split(config: HarvestConfig, num_windows: int) -> SplitSpec:
    """The rows of all held-out positions, in order."""
    num_rows = num_windows * config.context_size
    return SplitSpec("heldout", config.shard_rows, num_rows, lambda num_rows, _: np.arange(num_rows))


@contextmanager
def _keeping_pools(writer: CacheWriter, config: HarvestConfig, progress: Progress) -> Iterator[None]:
    """On Ctrl-C or SIGTERM, waits for the pool that is being written, and says what is kept."""
    try:
        yield
    except (KeyboardInterrupt, Stopped):
        progress.say("stopping: the last pool is being written; a second Ctrl-C gives it up")
        writer.wait()
        rows = {split: _end_position(writer, split).rows for split in SPLITS}
        progress.say(
            f"kept {rows['train']:,} of {config.num_tokens:,} training tokens and {rows['heldout']:,} held-out "
            f"positions in {writer.folder}; the same command goes on from there"
        )
        raise


def _run(
    spec: SplitSpec,
    batches: Iterable[WindowBatch],
    passes: PassWorkers,
    start: Callable[[], None],
    writer: CacheWriter,
    progress: Progress,
) -> None:
    """Runs the forward passes for the missing pools of one split, and queues these; the last may not be written yet.

    `start` is called before each pass.
    """
    split, pools = spec.split, writer.pools(spec.split)
    done = sum(line["num_rows"] for line in pools)
    progress.start(f"harvest {split}", spec.limit, "tokens", done=done)
    if done:
        progress.say(f"{split}: {done:,} of {spec.limit:,} tokens are stored already")

    began, bytes_before = time.monotonic(), writer.bytes_written

    def start_pass(batch: WindowBatch) -> PendingRows:
        start()
        pending = passes.start(batch, split)

        def wait() -> Rows:
            rows = pending.wait()
            megabytes = (writer.bytes_written - bytes_before) / 1e6
            progress.advance(len(rows), of="", **{"MB/s": round(megabytes / (time.monotonic() - began), 2)})
            return rows

        return replace(pending, wait=wait)

    writer.log(split=split, pool=None, rows=0)  # so that the log shows the time of the first pool
    stored = stored_runs(pools, spec.pool_rows)
    for pool in cut_pools(spec, batches, start_pass, stored, passes.in_flight):
        writer.put(pool)
        writer.log(split=split, pool=pool.number, rows=len(pool.order))
    progress.finish()


def _end_position(writer: CacheWriter, split: Split) -> Position:
    """The position after the last complete pool."""
    pools = writer.pools(split)
    return Position.after(pools[-1], writer.pool_rows[split]) if pools else Position()


def _report_shortfalls(config: HarvestConfig, train: Position, heldout_rows: int, progress: Progress) -> None:
    if train.rows < config.num_tokens:
        progress.say(f"the corpus ended: {train.rows:,} training tokens stored of {config.num_tokens:,} requested")
    if train.dropped:
        progress.say(f"left out {train.dropped:,} rows with a norm above {config.drop_norm_above} medians")
    if heldout_rows < config.heldout_tokens // config.context_size * config.context_size:
        progress.say(
            f"stored {heldout_rows:,} held-out positions of at most {config.heldout_tokens:,}: the text that was read "
            f"holds no more at heldout_share {config.heldout_share}"
        )
