"""What a part is given."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpu_parts.scale import Scale
from gpu_parts.timing import Budget


@dataclass(frozen=True)
class Session:
    """One part's sizes, its time, a folder that is thrown away, and whether the kernels may be timed."""

    scale: Scale
    budget: Budget
    folder: Path
    kernels_right: bool
