"""Rows that a text gives, counted before any of it goes through the model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Literal

from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import make_windows
from saepipe.harvest.feed import WindowFeed
from saepipe.harvest.model import LanguageModel

Found = Literal["enough", "all", "some"]
"""Whether a text has as many rows as asked for, was read to its end, or was read only in part."""

COUNT_SECONDS = 10.0
"""Time after which a text is not counted further."""


@dataclass(frozen=True)
class TextSize:
    """Rows that the text gives, at most as many as the config asks for."""

    train_rows: int
    heldout_rows: int
    found: Found
    seconds: float = 0.0
    """time in which the text was read"""


def count_rows(
    config: HarvestConfig, lm: LanguageModel, revision: str | None = None, *, seconds: float = COUNT_SECONDS
) -> TextSize:
    """Counts the rows of the text up to those asked for; gives up after `seconds`.

    Rows that `drop_norm_above` will leave out are counted, since only the model's activations show them.
    """
    windows, most = make_windows(config, lm, revision), config.heldout_tokens // config.context_size
    feed = WindowFeed(windows, config.contexts_per_pass, most, digest=False)
    train, start = 0, time.monotonic()
    found: Literal["enough", "all", "some"] = "all"
    for batch in feed.train_batches():
        train += int(batch.keep(lm.special_ids).sum())
        if train >= config.num_tokens or time.monotonic() > start + seconds:
            found = "enough" if train >= config.num_tokens else "some"
            break
    return TextSize(
        min(train, config.num_tokens), len(feed.heldout) * config.context_size, found, time.monotonic() - start
    )
