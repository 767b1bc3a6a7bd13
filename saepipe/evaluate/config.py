"""What may be asked of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from saepipe.data.component import ConfigWithPlugins
from saepipe.data.config import Count
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.metrics.absorption import Absorption
from saepipe.evaluate.metrics.base import Metric
from saepipe.evaluate.metrics.core import Core
from saepipe.evaluate.metrics.geometry import Geometry
from saepipe.evaluate.metrics.sparse_probing import SparseProbing
from saepipe.evaluate.testbed import Mode
from saepipe.harvest.model import Dtype


class EvaluateConfig(ConfigWithPlugins):
    """Which metrics, and how the model runs for them."""

    metrics: tuple[Metric, ...] = Field(default=(Core(), SparseProbing(), Absorption(), Geometry()), min_length=1)
    """Each by its name, with its settings."""
    features: Features | None = Features()
    """What the feature browser shows of each latent, `RUN/features/`; null: none is gathered."""
    cache: Path | None = None
    """Where the runs' cache lies now; null: where they were trained from."""
    artifacts: Path | None = None
    """Where work that depends on the model alone is kept for later calls; null: `<cache>.artifacts`."""
    mode: Mode = "fixed"
    """fixed: the right numbers; reference: SAEBench's own, faults included."""
    activations: Literal["stored", "live"] = "stored"
    """Held-out activations from the cache, or from the model, which runs again for them."""
    baseline: Path | None = None
    """The run that metrics with a comparison (geometry) compare the others with."""
    batch_size: Count = Field(default=8, gt=0)
    """Contexts a forward pass. The logits of two passes must fit in memory."""
    device: str = "auto"
    """Of the model and the SAEs; auto: cuda where there is one, else cpu."""
    dtype: Dtype | None = None
    """Of the model; null: that of the harvest. SAEs stay float32."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError(f"a metric stands twice: {', '.join(names)}")
        return self
