"""Settings of `saepipe evaluate`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from saepipe.data.config.component import ConfigWithPlugins
from saepipe.evaluate.features.config import Features
from saepipe.evaluate.metrics.absorption.metric import Absorption
from saepipe.evaluate.metrics.base import Metric
from saepipe.evaluate.metrics.core.metric import Core
from saepipe.evaluate.metrics.geometry.metric import Geometry
from saepipe.evaluate.metrics.sparse_probing.metric import SparseProbing
from saepipe.evaluate.model.config import ModelSettings


class EvaluateConfig(ModelSettings, ConfigWithPlugins):
    """Settings of `saepipe evaluate`: the metrics, and how the model runs for them."""

    metrics: tuple[Metric, ...] = Field(default=(Core(), SparseProbing(), Absorption(), Geometry()), min_length=1)
    """Metrics by name, each with its settings."""
    features: Features | None = Features()
    """Settings of the feature store, `RUN/features/`, which the feature browser shows; null: no store is built."""

    @model_validator(mode="after")
    def _no_duplicates(self) -> Self:
        names = [metric.name for metric in self.metrics]
        if len(set(names)) < len(names):
            raise ValueError(f"a metric is listed twice: {', '.join(names)}")
        return self
