"""Settings of the language model's side of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from saepipe.data.config.base import Config, Count
from saepipe.harvest.model import Dtype

Mode = Literal["fixed", "reference"]
"""The right number, or the reference's own, faults included."""


class ModelSettings(Config):
    """Which cache and model an evaluation uses, and how the model runs."""

    cache: Path | None = None
    """Where the runs' cache is now; null: where they were trained from."""
    artifacts: Path | None = None
    """Where work that depends on the model alone is kept for later calls; null: `<cache>.artifacts`."""
    mode: Mode = "fixed"
    """fixed: the right numbers; reference: SAEBench's own, faults included."""
    activations: Literal["stored", "live"] = "stored"
    """Held-out activations from the cache, or from the model, which then runs again for them."""
    baseline: Path | None = None
    """The run that metrics with a comparison (geometry) compare the others with."""
    batch_size: Count = Field(default=8, gt=0)
    """Contexts per forward pass. The logits of two passes must fit in memory."""
    device: str = "auto"
    """Device of the model and the SAEs; auto: cuda if there is one, else cpu."""
    dtype: Dtype | None = None
    """Dtype of the model; null: that of the harvest. SAEs stay float32."""
