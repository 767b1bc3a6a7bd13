"""A harvest by several ranks: the first reads the text and hands it out, and each makes the pools that it owns.

A pool with the windows that feed it is the unit of work, so the bytes of a cache do not depend on the number of ranks.
Ranks wait for the first when it begins the cache, and it waits for them before it seals it; in between they only share
its folder, or the bucket: there each machine has a mirror of its own. A window batch that feeds two pools of different
ranks is run by both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from saepipe.data.cache import rank_manifests
from saepipe.data.cache.layout import SPLITS, Split
from saepipe.data.cache.writer import CacheWriter
from saepipe.data.errors import ConfigError
from saepipe.data.ranks.failure_watch import FailureWatch
from saepipe.data.ranks.launch import Ranks
from saepipe.data.terminal.progress import Progress
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.handing_out import HandingOut
from saepipe.harvest.joining import meet_begun
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.pool_maker import PoolMaker, PoolWriter
from saepipe.harvest.pool_text import PoolText, TextFolder
from saepipe.harvest.reading import Reading
from saepipe.harvest.split_specs import heldout_split, train_split

TEXTS_PER_RANK = 4
"""Texts of pools that may wait, on average, for each rank."""
_SAY_SECONDS = 60.0


def check_ranks(config: HarvestConfig, ranks: Ranks) -> None:
    """Raises ConfigError for what only one rank can do."""
    if ranks.size > 1 and config.drop_norm_above is not None:
        raise ConfigError(
            "drop_norm_above decides by activations which rows are left out, so no rank knows where its pools begin",
            hint="harvest with a single rank, or leave drop_norm_above out",
        )


def lead(
    ranks: Ranks,
    config: HarvestConfig,
    lm: LanguageModel,
    writer: CacheWriter,
    maker: PoolMaker,
    reading: Reading,
    start: Callable[[], None],
    progress: Progress,
) -> None:
    """Hands out the text, makes the first rank's own pools, and waits until all others have made theirs."""
    texts, stored, watch = TextFolder(writer.folder), stored_pools(writer), FailureWatch(ranks)
    with HandingOut(config, lm, reading, texts, stored, start, TEXTS_PER_RANK * ranks.size) as handing_out:

        def look() -> None:
            handing_out.look()
            watch.look()

        handing_out.wait_until_begun()
        meet_begun(ranks, writer.folder)
        make_own_pools(ranks, config, writer, maker, texts, stored, look)
        handing_out.wait()
    _await_pools(writer, handing_out.num_pools, texts.pauses(), watch, progress)
    pauses = texts.pauses()
    while not rank_manifests.all_have_ended(writer.folder, ranks.size):  # they still read the folder
        watch.look()
        time.sleep(next(pauses))


def make_own_pools(
    ranks: Ranks,
    config: HarvestConfig,
    writer: PoolWriter,
    maker: PoolMaker,
    texts: TextFolder,
    stored: dict[Split, set[int]],
    look: Callable[[], None],
) -> None:
    """Makes the missing pools that this rank owns; `look` is called while it waits, and may raise."""
    for spec in (train_split(config), heldout_split(config, config.heldout_tokens // config.context_size)):
        maker.begin(spec, ranks)
        for text in _own_texts(ranks, texts, spec.split, stored[spec.split], look):
            if spec.split == "train":
                _await_channels(writer, text, texts.pauses(), look)
            maker.make(spec, text)
    writer.wait()


def _own_texts(
    ranks: Ranks, texts: TextFolder, split: Split, stored: set[int], look: Callable[[], None]
) -> Iterator[PoolText]:
    """Yields the texts of this rank's missing pools, each as soon as it was read."""
    number = ranks.rank
    while True:
        if number not in stored:
            text = texts.take(split, number, look)
            if text is None:
                return
            yield text
        number += ranks.size


def _await_channels(writer: PoolWriter, text: PoolText, pauses: Iterator[float], look: Callable[[], None]) -> None:
    """Waits for the first pool, which freezes the channel statistics of `int8` for all others."""
    while text.begin.pools and not writer.takes_any_pool:
        look()
        time.sleep(next(pauses))
        writer.adopt()


def _await_pools(
    writer: CacheWriter,
    num_pools: Mapping[Split, int],
    pauses: Iterator[float],
    watch: FailureWatch,
    progress: Progress,
) -> None:
    """Waits until all pools are listed, and says every minute which are not."""
    said = time.monotonic()
    while True:
        writer.adopt()
        missing = {split: sorted(set(range(count)) - _numbers(writer, split)) for split, count in num_pools.items()}
        if not any(missing.values()):
            return
        if time.monotonic() - said > _SAY_SECONDS:
            said = time.monotonic()
            listed = "; ".join(f"{split} {', '.join(map(str, pools))}" for split, pools in missing.items() if pools)
            progress.say(f"waiting for pools of other ranks: {listed}")
        watch.look()
        time.sleep(next(pauses))


def stored_pools(writer: CacheWriter) -> dict[Split, set[int]]:
    """Returns the numbers of the pools that are stored, by split."""
    return {split: _numbers(writer, split) for split in SPLITS}


def _numbers(writer: CacheWriter, split: Split) -> set[int]:
    return {line["pool"] for line in writer.pools(split)}
