"""Harvests the pools behind the head of a rolling cache while a training reads and removes them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from filelock import Timeout

from saepipe.data.cache.cache import Cache
from saepipe.data.cache.layout import Split
from saepipe.data.errors import LockedError
from saepipe.data.folders.artifact import file_lock
from saepipe.data.ranks.failure_watch import FailureWatch
from saepipe.data.ranks.group import meet, process_group
from saepipe.data.ranks.launch import Ranks
from saepipe.data.rolling.rolling_folder import RollingFolder
from saepipe.data.terminal.progress import Progress
from saepipe.harvest import over_ranks
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import chat_text, make_layout, make_windows
from saepipe.harvest.feed import WindowFeed
from saepipe.harvest.handing_out import HandingOut
from saepipe.harvest.joining import BEGUN
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.pass_workers import PassWorkers
from saepipe.harvest.pool_maker import PoolMaker
from saepipe.harvest.pool_text import TextFolder
from saepipe.harvest.rolling_writer import RollingWriter
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.rows import WindowBatch
from saepipe.harvest.run import as_stored, settled_model
from saepipe.harvest.split_specs import pool_rows, train_split
from saepipe.harvest.text_marks import TextMarks

LOCK_SECONDS = 600.0
"""How long an earlier harvest of a stream may take to end."""


class RollingText:
    """The training windows of a text; those of the held-out part are in the head already."""

    num_heldout_windows = 0

    def __init__(self, config: HarvestConfig, lm: LanguageModel, head: Cache, marks: TextMarks) -> None:
        chat, revision = chat_text(config, lm), head.attributes["dataset"]["revision"]
        windows = make_windows(config, lm, revision, chat=chat)
        self._feed, self._marks = WindowFeed(windows, config.contexts_per_pass, 0, marks_stored=chat is not None), marks

    def train_batches(self) -> Iterator[WindowBatch]:
        """Yields the training batches, each when the text of the listed pools that it feeds has been compared."""
        return self._marks.checked(self._feed.train_batches())

    def fill_heldout(self) -> None:
        """Does nothing: no held-out window is wanted."""

    def heldout_batches(self) -> Iterator[WindowBatch]:
        return iter(())


def harvest_pools(folder: RollingFolder, config: HarvestConfig, most_pools: int, progress: Progress) -> None:
    """Makes the pools that a training still needs, in order, until the config's `num_tokens` or the text's end.

    Under torchrun, the ranks share the pools out.

    Args:
        folder: with a finished head.
        config: of the head, with the `num_tokens` of all pools.
        most_pools: pools that may wait in the folder.
        progress: receives sentences.

    Raises:
        SaepipeError: as `harvest` does.
    """
    ranks, head = Ranks.of_environment(), Cache.open(folder.head)
    over_ranks.check_ranks(config, ranks)
    with _lock(folder.lock(ranks.rank)), process_group(ranks, seconds=BEGUN[1]), ExitStack() as stack:
        config, lm = settled_model(config.adopting(HarvestConfig.parse(head.attributes["config"])), progress)
        lm = as_stored(lm, head.attributes, folder.head, progress)
        if ranks.is_first:
            _clear(folder, head, config, most_pools)
        meet(ranks, *BEGUN)
        layout, sizes = make_layout(config, lm), pool_rows(config)
        limits = {"most_pools": most_pools, "threads": config.encoders, "rank": ranks.rank}
        writer = stack.enter_context(closing(RollingWriter(folder, layout, sizes, head.attributes, **limits)))
        rows = RowSource(lm, config.hook_points, head.attributes["norm_limits"], progress.say)
        stack.enter_context(closing(rows))
        maker = PoolMaker(writer, stack.enter_context(closing(PassWorkers(rows))), progress)
        _make_pools(ranks, config, lm, head, folder, writer, maker)


def _lock(path: Path) -> ExitStack:
    """Takes a lock; the harvest of a training that was killed may hold it while it ends."""
    lock = ExitStack()
    try:
        lock.enter_context(file_lock(path, timeout=LOCK_SECONDS))
    except Timeout:
        hint = "end it; if there is none on any machine, remove the file and the one of that name with .soft"
        raise LockedError(f"another harvest of this stream holds {path}", hint=hint) from None
    return lock


def _clear(folder: RollingFolder, head: Cache, config: HarvestConfig, most_pools: int) -> None:
    """Removes pools that an earlier harvest did not finish, and those beyond the space that there is now.

    Those before the first that is needed are the training's to remove, which it may be doing.
    """
    folder.begin(line for line in head.lines if line["kind"] == "pool" and line["split"] == "train")
    sizes, needed = {line["pool"]: line["num_rows"] for line in folder.lines()}, folder.needed()
    for number in folder.stored():
        size = min(config.pool_rows, config.num_tokens - number * config.pool_rows)  # the last may have been shorter
        sound = number < needed + most_pools and folder.is_made(number) and sizes.get(number) == size
        if number >= needed and not sound:
            folder.remove([number])


def _make_pools(
    ranks: Ranks,
    config: HarvestConfig,
    lm: LanguageModel,
    head: Cache,
    folder: RollingFolder,
    writer: RollingWriter,
    maker: PoolMaker,
) -> None:
    """Makes the missing pools alone, or those of this rank, of which the first hands out the text."""
    stored: dict[Split, set[int]] = {"train": {line["pool"] for line in writer.pools("train")}, "heldout": set()}
    if not ranks.is_first:
        look = FailureWatch(ranks).look
        over_ranks.make_own_pools(ranks, config, writer, maker, TextFolder(folder.path), stored, look)
        return
    text = RollingText(config, lm, head, TextMarks.of(folder.path, config.dataset.source))
    if ranks.size == 1:
        maker.begin(train_split(config))
        maker.make_missing(train_split(config), text.train_batches(), lambda: None)
        writer.wait()
        return
    texts, most_waiting = TextFolder(folder.path), over_ranks.TEXTS_PER_RANK * ranks.size
    with HandingOut(config, lm, text, texts, stored, lambda: None, most_waiting) as handing_out:
        over_ranks.make_own_pools(ranks, config, writer, maker, texts, stored, handing_out.look)
        handing_out.wait()
