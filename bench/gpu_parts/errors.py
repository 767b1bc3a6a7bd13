"""Distance between a result and the true one."""

from __future__ import annotations

import torch
from torch import Tensor

HUGE = 1e30


def error(result: Tensor, true: Tensor) -> float:
    """Returns |result - true| / |true|, in norms; NaN and infinity count as huge numbers, which JSON can hold."""
    size = torch.linalg.vector_norm(true)
    finite = result.double().nan_to_num(nan=HUGE, posinf=HUGE, neginf=-HUGE)
    return float(torch.linalg.vector_norm(finite - true.double()) / (size if size > 0 else 1.0))
