"""Input of a part."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gpu_parts.scale import Scale
from gpu_parts.timing import Budget


@dataclass(frozen=True)
class Session:
    """Sizes and time budget of a part, a temporary folder, and whether the kernels are right and may be timed."""

    scale: Scale
    budget: Budget
    folder: Path
    kernels_right: bool
