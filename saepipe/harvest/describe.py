"""A harvest before it runs: its layout, its windows, and the attributes that describe the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

import torch

from saepipe.data.cache.layout import Layout, Split
from saepipe.data.config.base import fingerprint
from saepipe.data.errors import ConfigError
from saepipe.data.folders.artifact import provenance
from saepipe.harvest.attention import check_attention
from saepipe.harvest.causality import check_causal
from saepipe.harvest.chat import ChatText
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.openings import measure_openings, measured_size
from saepipe.harvest.row_source import RowSource
from saepipe.harvest.rows import WindowBatch
from saepipe.harvest.text import read_documents, resolve_revision
from saepipe.harvest.tokenize import Window, pack

_SEARCHED = 10_000
"""Windows of conversations in which a token to store is looked for; a prompt may fill the first."""


def make_layout(config: HarvestConfig, lm: LanguageModel) -> Layout:
    """Makes the cache's layout; raises ConfigError if the codec does not suit the model's width."""
    return Layout(
        lm.widths(config.hook_points), config.context_size, config.shard_rows, config.chunk_rows, config.codec
    )


def make_windows(
    config: HarvestConfig,
    lm: LanguageModel,
    revision: str | None = None,
    nulls: list[int] | None = None,
    chat: ChatText | None = None,
) -> Iterator[tuple[Split, Window]]:
    """Yields all windows, training and held-out; a pure function of the config and the dataset's commit.

    `nulls` receives the numbers of the documents that were left out because they have no value. `chat` may be given to
    read what it counts.
    """
    return pack(
        read_documents(config.dataset, revision, nulls=nulls, chat=chat or chat_text(config, lm)),
        lm.tokenizer,
        context_size=config.context_size,
        bos_id=None if config.bos == "none" else lm.bos_id,
        separate=config.bos == "documents",
        heldout_share=config.heldout_share,
    )


def chat_text(config: HarvestConfig, lm: LanguageModel) -> ChatText | None:
    """Returns what renders the config's conversations; raises ConfigError if the tokenizer cannot."""
    return ChatText(lm.tokenizer, config.dataset.chat) if config.dataset.chat else None


def first_batch(config: HarvestConfig, lm: LanguageModel, revision: str | None = None) -> WindowBatch:
    """The first training batch; raises ConfigError like `first_windows`."""
    return first_windows(config, lm, revision, config.contexts_per_pass)


def first_windows(config: HarvestConfig, lm: LanguageModel, revision: str | None, count: int) -> WindowBatch:
    """The first training windows; raises ConfigError if the dataset does not fill one with ordinary tokens."""
    windows = (window for split, window in make_windows(config, lm, revision) if split == "train")
    batch = list(islice(windows, count))
    if not batch:
        raise ConfigError(
            f"the dataset {config.dataset.source!r} does not fill one training window of {config.context_size} tokens",
            hint="use a smaller context_size, a smaller heldout_share, or more text",
        )
    first = WindowBatch.of(0, batch)
    stored = bool(first.keep(lm.special_ids).any())
    if not stored and config.dataset.chat:
        stored = any(WindowBatch.of(0, [window]).keep(lm.special_ids).any() for window in islice(windows, _SEARCHED))
    if not stored:
        windows_read = "windows" if config.dataset.chat else f"first {len(batch)} windows"
        raise ConfigError(
            f"the {windows_read} of {config.dataset.source!r} hold nothing but special tokens, or tokens not stored",
            hint="check the dataset's columns, and that the tokenizer belongs to the text",
        )
    return first


def describe(config: HarvestConfig, lm: LanguageModel) -> dict[str, Any]:
    """Returns the cache's attributes that are known before it is filled; checks the config against the model.

    Raises:
        ConfigError: if the model has no such layer or site, contexts are longer than it supports, the attention
            implementation changes its activations, or the model is not causal.
    """
    lm.widths(config.hook_points)
    num_positions = getattr(lm.model.config.get_text_config(), "max_position_embeddings", None)
    if num_positions is not None and config.context_size > num_positions:
        raise ConfigError(f"context_size {config.context_size} exceeds the model's {num_positions} positions")
    revision = resolve_revision(config.dataset)
    batch = first_batch(config, lm, revision)
    check_attention(lm, torch.from_numpy(batch.ids[:4]).long(), config.hook_points)
    check_causal(lm, torch.from_numpy(batch.ids[:1]).long())
    medians = median_norms(config, lm, batch) if config.drop_norm_above else {}
    return {
        "format_version": make_layout(config, lm).format_version,
        "model": lm.identity,
        "dataset": {"source": config.dataset.source, "revision": revision, **_template(config, lm)},
        "hooks": list(config.hooks),
        **make_layout(config, lm).describe_widths(),
        "context_size": config.context_size,
        "bos": config.bos,
        "bos_id": None if config.bos == "none" else lm.bos_id,
        "special_ids": sorted(lm.special_ids),
        "seed": config.seed,
        "codec": config.codec,
        "identity": fingerprint(config.identity()),
        "openings": _openings(config, lm, revision),
        "norm_limits": {hook: median * (config.drop_norm_above or 0) for hook, median in medians.items()},
        "versions": dict(provenance()),
    }


def _openings(config: HarvestConfig, lm: LanguageModel, revision: str | None) -> dict[str, Any] | None:
    """Measures what the config's BOS does to the model's loss on a little of the text."""
    plain = config.model_copy(update={"bos": "none", "context_size": measured_size(config)})
    return measure_openings(config, lm, make_windows(plain, lm, revision))


def _template(config: HarvestConfig, lm: LanguageModel) -> dict[str, Any]:
    """Returns the text of the chat template, if there are conversations."""
    return {"chat_template": lm.tokenizer.chat_template} if config.dataset.chat else {}


def median_norms(config: HarvestConfig, lm: LanguageModel, batch: WindowBatch) -> dict[str, float]:
    """Median norm of a batch's ordinary tokens, by hook."""
    with closing(RowSource(lm, config.hook_points, {})) as source:
        return source.median_norms(batch)
