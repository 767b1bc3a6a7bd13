"""What may be asked of a feature store."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saepipe.data.config.base import Config, Count


class Features(Config):
    """How many tokens are read, and what is kept of each latent."""

    split: Literal["train", "heldout"] = "train"
    """Of the cache: its training rows, which are many, or its held-out contexts."""
    num_tokens: Count | None = Field(default=2_000_000, gt=0)
    """The first so many; null: all."""
    num_top: int = Field(default=16, ge=1)
    """Contexts in which the latent is strongest."""
    num_quantiles: int = Field(default=4, ge=1)
    """Groups of a random sample of the tokens on which the latent is active, from weak to strong."""
    per_quantile: int = Field(default=4, ge=1)
    """Tokens a group."""
    window: int = Field(default=32, ge=1)
    """Tokens shown of each; less where a context is shorter."""
    num_neighbours: int = Field(default=8, ge=1)
    """Nearest latents, and co-activating ones."""
    num_logits: int = Field(default=10, ge=0)
    """Tokens that a latent promotes most, and so many that it suppresses most; 0: none, and no model is needed."""
    coactive_pairs: Count = Field(default=20_000, gt=0)
    """Pairs of active latents counted, at most, a latent; where there are more, on a random part of the tokens."""
    seed: int = Field(default=0, ge=0)
    """Of the sample."""
