"""A study small enough to run in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

HOOK = "blocks.1.hook_resid_post"


def plain_study(cache: Path | str, **changes: Any) -> dict[str, Any]:
    """Returns a study of an arm that learns too slowly, which shows, and of a placebo."""
    return {
        "question": "Does a small SAE need this learning rate?",
        "cache": str(cache),
        "train": {
            "hook": HOOK,
            "sae": {"name": "topk", "d_sae": 64, "k": 8},
            "steps": 40,
            "batch_size": 128,
            "optimizer": {"lr": 3e-3},
            "device": "cpu",
            "log_every": 20,
        },
        "arms": [
            {"name": "slow", "optimizer.lr": 1.5e-3},
            {"name": "placebo", "penalties": [{"name": "random_pairs", "margin": -1, "weight": 1e-4}]},
        ],
        "evaluate": {"device": "cpu", "features": None, "metrics": [{"name": "core", "num_contexts": 4}]},
        "primary_metrics": {"explained_variance": 0.05},
    } | changes
