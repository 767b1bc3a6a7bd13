"""Settings of a feature store."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saepipe.data.config.base import Config, Count
from saepipe.data.config.bounds import Seed


class Features(Config):
    """Settings of a feature store: the tokens to read, and the data to keep per latent."""

    split: Literal["train", "heldout"] = "train"
    """Part of the cache to read: its many training rows, or its held-out contexts."""
    num_tokens: Count | None = Field(default=2_000_000, gt=0)
    """Number of tokens, from the first; null: all."""
    num_top: int = Field(default=16, ge=1, le=10_000)
    """Contexts in which the latent is strongest."""
    num_quantiles: int = Field(default=4, ge=1, le=1000)
    """Groups of a random sample of the tokens on which the latent is active, from weak to strong."""
    per_quantile: int = Field(default=4, ge=1, le=1000)
    """Tokens per group."""
    window: int = Field(default=32, ge=1, le=2**20)
    """Tokens shown per example; fewer if a context is shorter."""
    num_neighbours: int = Field(default=8, ge=1, le=10_000)
    """Number of nearest latents, and of co-activating latents."""
    num_logits: int = Field(default=10, ge=0, le=10_000)
    """Number of tokens most promoted, and of tokens most suppressed, by a latent; 0: none, and no model is needed."""
    coactive_pairs: Count = Field(default=20_000, gt=0)
    """Pairs of active latents counted, at most, per latent; if there are more, on a random part of the tokens."""
    firing_entries: Count = Field(default=256, gt=0)
    """Activations kept of random tokens, at most, per latent on average: the store's latents are matched by them with
    those of other runs."""
    seed: Seed = 0
    """Seed of the sample."""
