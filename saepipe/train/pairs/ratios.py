"""Statistics of a pair of latents, a parent and a child, and the thresholds that each statistic admits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saepipe.data.folders.health_rules import RULES
from saepipe.train.pairs.running_means import TINY, Joint, Moments

RatioName = Literal["conditional", "lift", "magnitude", "magnitude_lift", "suppression", "none"]

SHRINKAGE = 5.0
"""Joint activations added to the observed and to the expected count, so that rare pairs stay near chance."""


@dataclass(frozen=True)
class Ratio:
    """Statistic of a pair."""

    formula: Callable[[Moments], Tensor]  # (num_pairs,) from the pairs' moments
    joint: Joint | None = None  # the joint mean that the formula needs
    threshold: float | None = None  # a first choice; None if the statistic is a weight itself


def conditional(m: Moments) -> Tensor:
    """P(parent active | child active)."""
    return (m.joint / m.rate_child.clamp_min(TINY)).clamp(0, 1)


def lift(m: Moments) -> Tensor:
    """Joint activations over those expected by chance, P(both) / (P(parent) P(child)), shrunk towards 1."""
    expected = m.num_tokens * m.rate_parent * m.rate_child
    return (m.num_tokens * m.joint + SHRINKAGE) / (expected + SHRINKAGE)


def magnitude(m: Moments) -> Tensor:
    """Parent's activation where the child is active, over the child's: E[f_parent [child active]] / E[f_child]."""
    return m.joint / m.mean_child.clamp_min(TINY)


def magnitude_lift(m: Moments) -> Tensor:
    """E[f_parent f_child] / (E f_parent E f_child)."""
    return m.joint / (m.mean_parent * m.mean_child).clamp_min(TINY)


def suppression(m: Moments) -> Tensor:
    """Loss of the parent's strength where the child is active: relu(1 - E[f_parent | child] / E[f_parent | parent])."""
    return (1 - kept_strength(m)).clamp(0, 1)


def kept_strength(m: Moments) -> Tensor:
    """Parent's strength where the child is active, over its usual one: E[f_parent | child] / E[f_parent | parent]."""
    return m.joint * m.rate_parent / (m.rate_child * m.mean_parent).clamp_min(TINY)


def none(m: Moments) -> Tensor:
    """1: all candidates count equally."""
    return torch.ones_like(m.rate_parent)


RATIOS: dict[RatioName, Ratio] = {
    "conditional": Ratio(conditional, "firing", threshold=0.5),
    "lift": Ratio(lift, "firing", threshold=5),
    "magnitude": Ratio(magnitude, "strength", threshold=5),
    "magnitude_lift": Ratio(magnitude_lift, "product", threshold=5),
    "suppression": Ratio(suppression, "strength"),
    "none": Ratio(none),
}


def threshold_problem(name: RatioName, rho: Sequence[float]) -> str | None:
    """Returns why the ratio cannot have a threshold with the values `rho`, and what would do; None if it can."""
    usual = RATIOS[name].threshold
    if usual is None:
        return f"ratio {name!r} is a weight and has no threshold: leave rho out" if rho else None
    if not rho:
        return f"ratio {name!r} needs a threshold rho; {usual:g} is a good start"
    if min(rho) <= 0:
        return f"rho = {min(rho):g} lets every pair pass: ratio {name!r} is never below 0; try {usual:g}"
    if name == "conditional" and max(rho) >= 1:
        return (
            f"{RULES['H4'].label}: rho = {max(rho):g} can never be exceeded: ratio 'conditional' is a probability, "
            "at most 1. "
            f"A rho between 0 and 1 would do, or ratio 'lift' or 'magnitude', where it means {max(rho):g} times as much"
        )
    return None


def threshold_weight(ratio: Tensor, rho: float | Tensor) -> Tensor:
    """Weight of a pair: 0 up to the threshold, rising to 1 at twice the threshold; min(1, relu(R / rho - 1))."""
    return (ratio / rho - 1).clamp(0, 1)
