"""Balance: pushes a pair apart only until its parent is as strong beside the child as elsewhere."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal

from torch import Tensor

from saepipe.train.pairs import selection
from saepipe.train.pairs.hinge import hinge
from saepipe.train.pairs.ratios import kept_strength
from saepipe.train.pairs.running_means import Moments
from saepipe.train.penalties.base import ANY, SHARE, Penalised, State, StepContext, WhenRead
from saepipe.train.penalties.observed_pairs import ObservedPairs
from saepipe.train.setting import Setting, SettingsNow, within


class Balance(ObservedPairs):
    """E_b |x|^2 / d_sae * sum over near pairs of w_ij relu(d_i . d_j)^2, w_ij = 1/2 + gain (1 - kept_ij), in [0, 1].

    kept_ij = E[f_i | j active] / E[f_i | i active], where the parent i is active more often than the child j. Below 1
    the child has absorbed some of its parent; above 1 the parent carries some of the child, because their rows are
    further apart than their directions. The cosine at which a pair comes to rest is thus read from the activations:
    0 for orthogonal directions, more for a child that truly overlaps its parent. A pair that has not been observed
    often enough has the weight `unjudged`. No gradient passes through w.
    """

    name: Literal["balance"] = "balance"
    statistics: ClassVar = {
        **selection.RANGES,
        "judged_share": SHARE,  # share of the neighbour pairs that were observed often enough
        "released_share": SHARE,  # share of the judged pairs with weight 0
        "kept": ANY,  # mean of the judged pairs with a positive cosine
    }

    gain: Annotated[Setting, within(0, math.inf)] = 3.0
    unjudged: Annotated[Setting, within(0, 1)] = 0.1

    def init_state(self, d_in: int, d_sae: int) -> State:
        return self.initial_pairs(d_sae, "strength")

    def __call__(self, ctx: StepContext, state: State, now: SettingsNow) -> Penalised:
        seen = self.observe(ctx, state, "strength")
        weight = balance_weight(seen.means, now["gain"]).where(seen.judged, now["unjudged"]) * seen.real
        state = seen.refreshed(ctx.W_dec, lambda: weight > 0)
        scale = ctx.power / len(ctx.W_dec)
        value = hinge(ctx.W_dec, seen.pairs, seen.cosine, scale * weight.to(scale.dtype))
        statistics = WhenRead(
            lambda: {
                **selection.statistics(
                    state, seen.pairs, seen.cosine, weight > 0, selection.marked_pairs(seen.cosine, seen.real)
                ),
                "judged_share": seen.judged.sum() / seen.real.sum().clamp_min(1),
                "released_share": (seen.judged & (weight <= 0)).sum() / seen.judged.sum().clamp_min(1),
                "kept": selection.masked_mean(kept_strength(seen.means), seen.judged & (seen.cosine > 0)),
            }
        )
        return Penalised(value, statistics, state)


def balance_weight(means: Moments, gain: float | Tensor) -> Tensor:
    """Returns the weight of each pair (num_pairs,): 1/2 in balance, 1 if the parent loses 1 / (2 gain) of its strength
    beside the child, 0 if it gains as much."""
    return (0.5 + gain * (1 - kept_strength(means))).clamp(0, 1)
