"""Running means of single latents and of candidate pairs, over a window of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saepipe.train.kernels.constants import constant
from saepipe.train.pairs.hinge import products
from saepipe.train.pairs.keys import Pairs, empty_keys, find

Joint = Literal["firing", "strength", "product"]
"""Mean kept of a pair: [both active]; acts_i [j active] and acts_j [i active]; acts_i acts_j."""

TINY = 1e-12
SMALL = 512  # up to this d_sae one product of all latents is cheaper than one product per pair


@dataclass(frozen=True)
class Moments:
    """Means over the window's tokens. The parent is the latent of the pair that is active more often."""

    rate_parent: Tensor  # (num_pairs,) share of tokens on which it is active
    rate_child: Tensor  # (num_pairs,)
    mean_parent: Tensor  # (num_pairs,) activation, over all tokens
    mean_child: Tensor  # (num_pairs,)
    joint: Tensor  # (num_pairs,) firing or product of both; or the parent's activation where the child is active
    num_tokens: Tensor  # (num_pairs,) tokens behind `joint`


def initial_means(num_pairs: int, d_sae: int, joint: Joint | None) -> dict[str, Tensor]:
    """Returns the initial state. Means start at 0; dividing them by `seen`, the mean of 1, removes the bias."""
    width = {"firing": 1, "strength": 2, "product": 1, None: 0}[joint]
    return {
        "keys": empty_keys(num_pairs, d_sae),
        "rate": torch.zeros(d_sae),
        "mean": torch.zeros(d_sae),
        "seen": torch.zeros(()),
        "joint": torch.zeros(num_pairs, width),
        "joint_seen": torch.zeros(num_pairs),
    }


def carried_over(state: Mapping[str, Tensor], new_keys: Tensor, d_sae: int) -> dict[str, Tensor]:
    """Returns the state for `new_keys` (num_pairs,), ascending; pairs that stay keep their means, new ones get 0."""
    position, kept = find(new_keys, state["keys"], d_sae)
    joint_seen = state["joint_seen"][position] * kept
    return {**state, "keys": new_keys, "joint": state["joint"][position] * kept.unsqueeze(1), "joint_seen": joint_seen}


def updated_means(
    state: Mapping[str, Tensor],
    pairs: Pairs,
    rate: Tensor,
    mean: Tensor,
    acts: Tensor,
    joint: Joint | None,
    share: float,
) -> dict[str, Tensor]:
    """Returns the state after one more batch.

    Args:
        state: from `initial_means` or from an earlier batch.
        pairs: of the state's keys.
        rate: (d_sae,) share of the batch's tokens on which each latent is active.
        mean: (d_sae,) its mean activation.
        acts: (num_tokens, d_sae) of the tokens on which pairs are observed.
        joint: mean kept of a pair.
        share: the batch's share of the window.
    """
    one = constant((1.0,), state["seen"].dtype, acts.device)[0]
    new = {
        "rate": rate,
        "mean": mean,
        "seen": one,
        "joint": state["joint"] if joint is None else joint_means(acts, pairs, joint),
        "joint_seen": one,
    }
    return {**state, **{name: state[name].lerp(value.to(state[name].dtype), share) for name, value in new.items()}}


def moments(state: Mapping[str, Tensor], pairs: Pairs, tokens_per_unit: float) -> Moments:
    """Returns the moments of the pairs.

    Args:
        state: after this step's batch.
        pairs: of the state's keys.
        tokens_per_unit: observed tokens at which `joint_seen` is 1.
    """
    of_ends = (torch.stack([state["rate"], state["mean"]]) / state["seen"])[:, pairs.ends]
    (rate_i, rate_j), (mean_i, mean_j) = of_ends
    # Of two equally frequent latents the stronger is the parent, since the latents' order must not matter.
    i_is_parent = torch.where(rate_i == rate_j, mean_i >= mean_j, rate_i > rate_j)
    (rate_parent, rate_child), (mean_parent, mean_child) = of_ends.where(i_is_parent, of_ends.flip(1))
    joint = state["joint"] / state["joint_seen"].unsqueeze(1)
    if joint.shape[1]:
        joint = joint[:, 0].where(i_is_parent, joint[:, -1])
    return Moments(rate_parent, rate_child, mean_parent, mean_child, joint, state["joint_seen"] * tokens_per_unit)


def joint_means(acts: Tensor, pairs: Pairs, joint: Joint) -> Tensor:
    """Returns the joint means over tokens (num_pairs, 1 or 2); acts (num_tokens, d_sae)."""
    acts = acts.float()
    sums = _by_products(acts, pairs, joint) if acts.shape[1] <= SMALL else _by_pairs(acts, pairs, joint)
    return sums / len(acts)


def _by_products(acts: Tensor, pairs: Pairs, joint: Joint) -> Tensor:
    """Returns sums over tokens, from the product of all latents with all."""
    on = acts.sign()  # 1 where active, as no activation is negative
    first = on if joint == "firing" else acts
    sums = first.T @ (acts if joint == "product" else on)
    if joint == "strength":
        return sums[pairs.ends, pairs.swapped].T
    return sums[pairs.i, pairs.j].unsqueeze(1)


def _by_pairs(acts: Tensor, pairs: Pairs, joint: Joint) -> Tensor:
    """Returns sums over tokens, from one product per pair."""
    by_latent = acts.T.contiguous()
    if joint == "product":
        return products(pairs, by_latent, by_latent).unsqueeze(1)
    on = by_latent.sign()  # 1 where active, as no activation is negative
    if joint == "firing":
        return products(pairs, on, on).unsqueeze(1)
    return torch.stack([products(pairs, by_latent, on), products(pairs, on, by_latent)], dim=1)
