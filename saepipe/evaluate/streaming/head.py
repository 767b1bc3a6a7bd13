"""The harvest of a stream: what it cannot be, and the part of it that is kept."""

from __future__ import annotations

from saepipe.data.errors import ConfigError
from saepipe.harvest.config import HarvestConfig
from saepipe.train.config_sections import StreamConfig


def harvest_config(settings: StreamConfig) -> HarvestConfig:
    """Reads the config of a stream's harvest.

    Raises:
        ConfigError: if it is for a cache, not for a stream.
    """
    config = HarvestConfig.load(settings.harvest)
    refusals = {
        "codec: int8 takes channel statistics from the first pool for all others; use `none` or `lossless`": (
            config.codec == "int8"
        ),
        "a stream needs held-out text for health rules and evaluations; set heldout_tokens and heldout_share": (
            not config.heldout_share or config.heldout_tokens < config.context_size
        ),
        f"num_tokens {config.num_tokens:,} fit into one pool of {config.pool_rows:,} rows; harvest a cache": (
            config.num_tokens <= config.pool_rows
        ),
        "drop_norm_above needs a single rank": config.drop_norm_above is not None and settings.ranks > 1,
    }
    for problem in (problem for problem, holds in refusals.items() if holds):
        raise ConfigError(f"{settings.harvest} cannot be streamed: {problem}")
    return config


def head_config(config: HarvestConfig) -> HarvestConfig:
    """Returns the config of the head: one full pool, and the whole held-out part."""
    return config.model_copy(update={"num_tokens": config.pool_rows, "fill_heldout": True})
