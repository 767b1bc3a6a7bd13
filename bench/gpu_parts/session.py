"""Input of a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpu_parts.scale import Scale
from gpu_parts.timing import Budget

Keep = Callable[[Mapping[str, Any]], None]


@dataclass(frozen=True)
class Session:
    """Sizes and time budget of a part, a temporary folder, and whether the kernels are right and may be timed."""

    scale: Scale
    budget: Budget
    folder: Path
    kernels_right: bool
    keep: Keep
    """writes the part's figures so far to the result file"""
