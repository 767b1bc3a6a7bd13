"""Names of the files in a run's folder."""

from __future__ import annotations

from saepipe.data.folders.health import FILE as HEALTH

CONFIG = "config.yaml"
METRICS, METRICS_SEAL = "metrics.jsonl", "metrics.seal.json"
CHECKPOINTS = "checkpoints"
SAE, SAE_CONFIG = "sae", "cfg.json"

__all__ = ["CHECKPOINTS", "CONFIG", "HEALTH", "METRICS", "METRICS_SEAL", "SAE", "SAE_CONFIG"]
