"""The harvest from start to end: text, windows, forward passes, pools of rows, a sealed cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from saepipe.data.cache import rank_manifests
from saepipe.data.cache.ancestors import keep_ancestor, relink
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.int8 import Snr
from saepipe.data.cache.layout import SPLITS, Split
from saepipe.data.cache.writer import CacheWriter
from saepipe.data.errors import Stopped
from saepipe.data.folders import artifact
from saepipe.data.folders.resume_mode import ResumeMode
from saepipe.data.ranks.failure_watch import FailureWatch
from saepipe.data.ranks.group import process_group
from saepipe.data.ranks.launch import Ranks
from saepipe.data.remote.places import folder_of, writer_lock
from saepipe.data.terminal.progress import Progress, Silent
from saepipe.data.workers import Workers
from saepipe.harvest import joining, over_ranks
from saepipe.harvest.attention import with_attention
from saepipe.harvest.auto_settings import chosen, settle
from saepipe.harvest.bos_token import bos_note, with_bos
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import describe, make_layout
from saepipe.harvest.model import LanguageModel, load_model
from saepipe.harvest.openings import opening_sentence
from saepipe.harvest.pass_workers import PassWorkers
from saepipe.harvest.pool_maker import PoolMaker
from saepipe.harvest.pool_text import TextFolder
from saepipe.harvest.pools import Position
from saepipe.harvest.reading import Reading
from saepipe.harvest.resume import FolderState, check_same_model, inspect_folder
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.size import check_room
from saepipe.harvest.split_specs import heldout_split, pool_rows, train_split
from saepipe.harvest.text_marks import TextMarks


def harvest(
    config: HarvestConfig | Mapping[str, Any] | Path | str = HarvestConfig(),  # noqa: B008 - a frozen value
    out: Path | str = "cache",
    *,
    resume: ResumeMode = "auto",
    progress: Progress | None = None,
) -> Cache:
    """Makes, resumes or extends the cache at `out`, and opens it. Under torchrun, all ranks make it together.

    Args:
        config: a config, its plain data, or the path of its YAML file.
        out: the cache's folder, or its address in a bucket: `s3://bucket/cache`.
        resume: `auto` resumes or starts; `never` refuses a folder that holds a cache, `must` one that does not.
        progress: receives progress and messages.

    Raises:
        SaepipeError: for problems that a user can fix; the data on disk by then can be resumed.

    Example:
        >>> cache = sp.harvest({"dataset": {"source": "news.jsonl"}, "num_tokens": "2M"}, "cache")
        >>> cache.shape  # (num_tokens, d_in)
    """
    config, out, progress = HarvestConfig.of(config), folder_of(out), progress or Silent()
    ranks = Ranks.of_environment()
    over_ranks.check_ranks(config, ranks)
    with process_group(ranks, seconds=joining.BEGUN[1]):
        if not ranks.is_first:
            return _help(config, out, ranks)
        return _lead(config, out, resume, ranks, progress)


def _lead(config: HarvestConfig, out: Path, resume: ResumeMode, ranks: Ranks, progress: Progress) -> Cache:
    """Does all that a single rank does, or what the first does for all."""
    with writer_lock(out, say=progress.say):
        folder = inspect_folder(out, config, resume)
        if folder.done:
            progress.say(f"{out} is finished already")
            joining.meet_begun(ranks, out)
        else:
            _make(out, folder, ranks, progress)
    joining.meet_fetched(ranks, out)
    finished = Cache.open(out)
    snrs = {} if folder.done else finished.attributes.get("int8_snr_db", {})
    for hook, snr in snrs.items():
        progress.say(f"int8 at {hook}: {Snr(**snr)}")
    return finished


def _make(out: Path, folder: FolderState, ranks: Ranks, progress: Progress) -> None:
    """Begins a cache, or goes on with it, to its seal."""
    config, lm = settled_model(folder.settings, progress)
    if folder.attributes:
        lm = as_stored(lm, folder.attributes, out, progress)
    attributes = dict(folder.attributes) or _described(config, lm, progress)
    _fill(out, config, lm, {**attributes, "config": folder.config or config.to_dict()}, ranks, progress)


def _help(config: HarvestConfig, out: Path, ranks: Ranks) -> Cache:
    """Makes the pools that another rank than the first owns; loads the model while the first begins the cache."""
    with closing(Workers(1, "load the model")) as workers, ExitStack() as stack:
        loading = None if artifact.is_committed(out) else workers.submit(load_model, config.model)
        fetch = stack.enter_context(joining.joined(ranks, out))
        folder = inspect_folder(out, config, "must")
        if not folder.done:
            loaded = workers.result(loading) if loading else load_model(folder.settings.model)
            _make_share(out, folder, loaded, ranks)
        fetch()
    return Cache.open(out)


def _make_share(out: Path, folder: FolderState, loaded: LanguageModel, ranks: Ranks) -> None:
    """Makes the pools of one rank, and waits until the first has sealed the cache."""
    lm = with_attention(loaded, folder.settings.model.attention)
    config, lm = settle(folder.settings, with_bos(lm, folder.settings.bos_token))
    lm, watch = as_stored(lm, folder.attributes, out, Silent()), FailureWatch(ranks)
    tools = _tools(out, config, lm, folder.attributes, Silent(), ranks.rank)
    with tools as (writer, maker), _keeping_pools(writer, config, Silent()):
        stored = over_ranks.stored_pools(writer)
        over_ranks.make_own_pools(ranks, config, writer, maker, TextFolder(out), stored, watch.look)
        rank_manifests.has_ended(out, ranks.rank)
    joining.await_seal(out, watch.look)


def as_stored(lm: LanguageModel, attributes: Mapping[str, Any], out: Path, progress: Progress) -> LanguageModel:
    """Compares the model with that of a cache that was begun; returns it with that cache's special tokens."""
    lm = replace(lm, stored_special_ids=frozenset(attributes["special_ids"]))
    check_same_model(attributes, lm.identity, out, progress)
    return lm


def settled_model(config: HarvestConfig, progress: Progress) -> tuple[HarvestConfig, LanguageModel]:
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
    out: Path,
    config: HarvestConfig,
    lm: LanguageModel,
    attributes: Mapping[str, Any],
    ranks: Ranks,
    progress: Progress,
) -> None:
    """Makes the pools that are missing, and seals the cache."""
    marks = TextMarks.of(out, config.dataset.source)
    if marks.num_unmarked:
        progress.say(f"{out} was begun by a version that kept no digest of the text: the text is not compared")
    with _tools(out, config, lm, attributes, progress) as (writer, maker), _keeping_pools(writer, config, progress):
        if _end_position(writer, "train").rows < config.num_tokens:
            writer.drop_short_pools()
        stored = sum(line["num_rows"] for split in SPLITS for line in writer.pools(split))
        check_room(config, lm, out, stored, attributes["dataset"]["revision"])

        start = _starter(writer, attributes, progress)
        reading = Reading(config, lm, attributes, marks, writer)
        if ranks.size == 1:
            _make_pools(config, writer, maker, reading, start)
        else:
            over_ranks.lead(ranks, config, lm, writer, maker, reading, start, progress)

        train = _end_position(writer, "train")
        _report_shortfalls(config, train, heldout_split(config, reading.num_heldout_windows).limit, progress)
        reading.say_losses(progress)
        writer.finish({**attributes, "num_tokens": train.rows, "num_dropped": train.dropped, **reading.close()})
    relink(out, artifact.read_manifest(out))


def _make_pools(
    config: HarvestConfig, writer: CacheWriter, maker: PoolMaker, reading: Reading, start: Callable[[], None]
) -> None:
    """Makes all missing pools while the text is read."""
    train = train_split(config)
    maker.begin(train)
    maker.make_missing(train, reading.train_batches(), start)
    start()  # if all training rows were stored already
    reading.fill_heldout()
    # The last training pool is written while held-out windows go through the model.
    heldout = heldout_split(config, reading.num_heldout_windows)
    maker.begin(heldout)
    maker.make_missing(heldout, reading.heldout_batches(), start)
    writer.wait()


@contextmanager
def _tools(
    out: Path,
    config: HarvestConfig,
    lm: LanguageModel,
    attributes: Mapping[str, Any],
    progress: Progress,
    rank: int = 0,
) -> Iterator[tuple[CacheWriter, PoolMaker]]:
    """Yields what writes a rank's pools, and what makes them."""
    with ExitStack() as stack:
        layout, rows_of, floor = make_layout(config, lm), pool_rows(config), config.int8_snr_floor
        writer = CacheWriter(out, layout, rows_of, threads=config.encoders, snr_floor=floor, rank=rank)
        stack.enter_context(closing(writer))
        rows = RowSource(lm, config.hook_points, attributes["norm_limits"], partial(_say_and_log, progress, writer))
        stack.enter_context(closing(rows))
        passes = stack.enter_context(closing(PassWorkers(rows)))
        yield writer, PoolMaker(writer, passes, progress)
        progress.finish()


def _say_and_log(progress: Progress, writer: CacheWriter, sentence: str) -> None:
    progress.say(sentence)
    writer.log(note=sentence)


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
