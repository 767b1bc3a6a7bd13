"""Settings of the language model's part of an evaluation."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saepipe.data.config.base import Config, Count
from saepipe.data.config.bounds import Device
from saepipe.data.config.place import Place
from saepipe.harvest.model_config import Dtype

Mode = Literal["fixed", "reference"]
"""Correct numbers, or SAEBench's own including its faults."""


class ModelSettings(Config):
    """Settings of an evaluation's cache, of its model, and of how the model runs."""

    cache: Place | None = None
    """Current path of the runs' cache; null: the path that they were trained from."""
    artifacts: Place | None = None
    """Folder that keeps work that depends on the model alone for later calls; null: `<cache>.artifacts`."""
    mode: Mode = "fixed"
    """fixed: correct numbers; reference: SAEBench's own, including its faults."""
    activations: Literal["stored", "live"] = "stored"
    """Source of the held-out activations: the cache, or the model, which then runs again for them."""
    baseline: Place | None = None
    """Run that metrics with a comparison (geometry) compare the other runs with."""
    batch_size: Count = Field(default=8, gt=0, le=2**16)
    """Contexts per forward pass. The logits of two passes must fit in memory."""
    device: Device = "auto"
    """Device of the model and the SAEs; auto: cuda if there is one, else cpu."""
    dtype: Dtype | None = None
    """Dtype of the model; null: the dtype of the harvest. SAEs stay float32."""
    trust_remote_code: bool = False
    """Whether the model's own code may run, if the harvest ran it; a cache cannot allow that by itself."""
