"""k, the active latents per token of a top-k: a number, or a schedule over the run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from saepipe.data.config.base import Count
from saepipe.train.schedule import Schedule


def _kind(value: Any) -> str:
    return "schedule" if isinstance(value, Schedule | Mapping) else "number"


WholeK = Annotated[
    Annotated[Annotated[Count, Field(ge=1)], Tag("number")] | Annotated[Schedule, Tag("schedule")], Discriminator(_kind)
]
"""k of each token; a schedule is rounded to whole numbers step by step."""

MeanK = Annotated[
    Annotated[Annotated[float, Field(gt=0)], Tag("number")] | Annotated[Schedule, Tag("schedule")], Discriminator(_kind)
]
"""k on average over a batch; may be fractional."""


def check_k(k: float | Schedule, d_sae: int, *, whole: bool) -> None:
    """Raises ValueError unless k, or each end of its schedule, is at most d_sae and at least 1, or above 0."""
    for value in (k.start, k.end) if isinstance(k, Schedule) else (k,):
        if value > d_sae:
            raise ValueError(f"k = {value:g} is more than d_sae = {d_sae}")
        if value < 1 if whole else value <= 0:
            raise ValueError(f"k = {value:g} is {'less than 1' if whole else 'not above 0'}")


def last_k(k: float | Schedule) -> float:
    """Returns k at the end of the run."""
    return k.end if isinstance(k, Schedule) else k


def k_now(k: float | Schedule) -> float:
    """Returns k of the architecture of one step."""
    assert not isinstance(k, Schedule), "k moves: take the architecture `at` a step, or `ended`"
    return k
