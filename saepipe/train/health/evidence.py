"""Evidence of how a run trained, kept in its health.json, by which H2 and H3 compare runs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from saepipe.train.config import RECONSTRUCTION, TrainConfig
from saepipe.train.health.inertness import Line
from saepipe.train.health.log_lines import weight_at

NUM_LINES, NUM_ENTRIES = 32, 256
"""Size of the evidence kept of a run: the last log lines, and evenly spaced entries of W_dec."""


def evidence(config: TrainConfig, num_steps: int, lines: Sequence[Line], W_dec: Tensor) -> dict[str, Any]:
    """Returns what runs are compared by: reconstruction losses while all penalties are on, the last one, and W_dec."""
    penalties = [penalty for penalty in config.penalties if penalty.weight != 0]
    settled = [line for line in lines if all(weight_at(penalty, line["step"], num_steps) > 0 for penalty in penalties)]
    weights = W_dec.detach().float().cpu().contiguous().numpy()
    return {
        "reconstruction": {str(line["step"]): line["terms"][RECONSTRUCTION]["value"] for line in settled[-NUM_LINES:]},
        "final_reconstruction": lines[-1]["terms"][RECONSTRUCTION]["value"],
        "W_dec": hashlib.sha256(weights.tobytes()).hexdigest(),
        "W_dec_entries": weights.reshape(-1)[:: max(1, weights.size // NUM_ENTRIES)].tolist(),
    }
