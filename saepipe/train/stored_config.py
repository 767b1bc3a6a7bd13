"""Settings of a finished run as its `config.yaml` holds them, read without the classes of its components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from saepipe.data.config.base import Config, Count
from saepipe.data.config.bounds import Seed
from saepipe.data.config.place import Place
from saepipe.train.freeze import MIN_COSINE
from saepipe.train.health_config import HealthConfig

Effect = Annotated[float, Field(gt=0)]

PRIMARY_METRICS = {"mean_full_absorption_score": 0.05, "explained_variance": 0.01, "delta_ce": 0.02}
"""Evaluation figures, each with the smallest effect of interest."""

# The place of a run, and how it is logged, judged or computed, do not change what it is.
OUTSIDE_THE_ID = frozenset(
    {
        "cache",
        "other_cache",
        "plugins",
        "device",
        "resident",
        "sparse_steps",
        "screen",
        "exact",
        "compile",
        "parallel",
        "log_every",
        "trackers",
        "checkpoint_every",
        "health",
        "primary_metrics",
        "variants",
        "seeds",
    }
)


LATER_KEYS: dict[str, Any] = {
    "target": None,
    "skip": False,
    "hooks": [],
    "other_fingerprint": None,
    "kl_tail": {"share": 0.0, "weight": 1.0, "windows": None},
    "freeze": None,
    "freeze_cosine": MIN_COSINE,
    "shuffle": "cache",
    "stream": None,
}
"""Keys that earlier versions did not have, with their defaults, at which they are not part of the id."""


class StoredConfig(Config):
    """The part of a run's resolved `TrainConfig` that reports and comparisons read; components are plain data."""

    model_config = ConfigDict(extra="ignore")

    cache: Place
    sae: dict[str, Any]
    penalties: tuple[dict[str, Any], ...] = ()
    transforms: tuple[dict[str, Any], ...] = ()
    steps: Count
    batch_size: Count
    seed: Seed
    data_seed: Seed
    health: HealthConfig = HealthConfig()
    primary_metrics: dict[str, Effect] = Field(default_factory=PRIMARY_METRICS.copy)


def stored_identity(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what makes the run what it is, from its resolved `TrainConfig` as plain data."""
    identity = {
        key: value
        for key, value in plain.items()
        if key not in OUTSIDE_THE_ID and not (key in LATER_KEYS and value == LATER_KEYS[key])
    }
    if isinstance(stream := identity.get("stream"), Mapping):
        identity["stream"] = {"num_tokens": stream.get("num_tokens")}  # the cache's fingerprint has the rest
    return identity | ({"init": _stored_start(init)} if isinstance(init := plain.get("init"), Mapping) else {})


def _stored_start(init: Mapping[str, Any]) -> dict[str, Any]:
    """Returns `init` with an SAE that training starts from by its weights; by its path until these are known.

    Without such an SAE the keys are those of versions that could not start from one.
    """
    start = {key: init[key] for key in ("weights", "from") if init.get(key) is not None}
    own = {key: value for key, value in init.items() if key not in ("from", "model", "weights")}
    return own | dict([*start.items()][:1])
