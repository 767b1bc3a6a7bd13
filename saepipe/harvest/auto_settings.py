"""Replaces `auto` in a harvest's config by what suits the model, the text and the machine; the cache stores that."""

from __future__ import annotations

import torch

from saepipe.harvest.attention import with_fastest_attention
from saepipe.harvest.batch_size import contexts_that_fit
from saepipe.harvest.config import HarvestConfig
from saepipe.harvest.describe import first_windows
from saepipe.harvest.model import LanguageModel
from saepipe.harvest.text import resolve_revision

COMPARED = 4
"""Windows on which implementations of attention are compared."""


def settle(config: HarvestConfig, lm: LanguageModel) -> tuple[HarvestConfig, LanguageModel]:
    """Returns the config without `auto`, and the model that it describes; unchanged if nothing is automatic."""
    if config.model.attention == "auto":
        lm.widths(config.hook_points)
        ids = first_windows(config, lm, resolve_revision(config.dataset), COMPARED).ids
        lm = with_fastest_attention(lm, torch.from_numpy(ids).long(), config.hook_points)
        config = config.model_copy(update={"model": lm.config})
    if config.batch_size == "auto":
        config = config.model_copy(update={"batch_size": contexts_that_fit(config, lm)})
    return config, lm


def chosen(before: HarvestConfig, after: HarvestConfig) -> str | None:
    """Says what was chosen; None if nothing was automatic."""
    parts = []
    if before.model.attention == "auto":
        parts.append(f"attention: {after.model.attention}")
    if before.batch_size == "auto":
        tokens = after.contexts_per_pass * after.context_size
        parts.append(f"batch_size: {after.batch_size} ({tokens:,} tokens per forward pass)")
    return f"chosen: {', '.join(parts)}" if parts else None
