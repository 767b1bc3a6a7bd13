"""How far a result is from the true one."""

from __future__ import annotations

import torch
from torch import Tensor

HUGE = 1e30


def error(found: Tensor, true: Tensor) -> float:
    """|found - true| / |true|, in norms. NaN and infinity count as huge numbers, which a result file can hold."""
    size = torch.linalg.vector_norm(true)
    known = found.double().nan_to_num(nan=HUGE, posinf=HUGE, neginf=-HUGE)
    return float(torch.linalg.vector_norm(known - true.double()) / (size if size > 0 else 1.0))
