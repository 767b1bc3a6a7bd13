"""Running means of single latents and of candidate pairs, over a window of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from saepipe.train.pairs.hinge import products
from saepipe.train.pairs.keys import Pairs, find, no_pairs, pairs_at

Joint = Literal["firing", "strength", "product"]
"""What is averaged of a pair: [both fire]; acts_i [j fires] and acts_j [i fires]; acts_i acts_j."""

TINY = 1e-12
SMALL = 512  # up to this d_sae one product of all latents is cheaper than a product a pair


@dataclass(frozen=True)
class Moments:
    """Means over the window's tokens, where the parent is the latent of the pair that fires more often."""

    rate_parent: Tensor  # (num_pairs,) share of tokens on which it fires
    rate_child: Tensor  # (num_pairs,)
    mean_parent: Tensor  # (num_pairs,) activation, over all tokens
    mean_child: Tensor  # (num_pairs,)
    joint: Tensor  # (num_pairs,) of both: firing or product; or the parent's activation where the child fires
    num_tokens: Tensor  # (num_pairs,) on which `joint` rests


def fresh_moments(num_pairs: int, d_sae: int, joint: Joint | None) -> dict[str, Tensor]:
    """Nothing seen. Means start at 0 and are divided by `seen`, the mean of 1, which removes the bias."""
    width = {"firing": 1, "strength": 2, "product": 1, None: 0}[joint]
    return {
        "keys": no_pairs(num_pairs, d_sae),
        "rate": torch.zeros(d_sae),
        "mean": torch.zeros(d_sae),
        "seen": torch.zeros(()),
        "joint": torch.zeros(num_pairs, width),
        "joint_seen": torch.zeros(num_pairs),
    }


def carried(state: Mapping[str, Tensor], new_keys: Tensor, d_sae: int) -> dict[str, Tensor]:
    """The state with other pairs, (num_pairs,) ascending: those that stay keep what is known, new ones know nothing."""
    position, found = find(new_keys, state["keys"], d_sae)
    joint_seen = state["joint_seen"][position] * found
    return {**state, "keys": new_keys, "joint": state["joint"][position] * found.unsqueeze(1), "joint_seen": joint_seen}


def moved(
    state: Mapping[str, Tensor], rate: Tensor, mean: Tensor, acts: Tensor, joint: Joint | None, share: float
) -> dict[str, Tensor]:
    """The state after one more batch.

    Args:
        state: as `fresh_moments` made it.
        rate: (d_sae,) share of the batch's tokens on which each latent fires.
        mean: (d_sae,) its mean activation.
        acts: (num_tokens, d_sae) of the tokens on which pairs are looked at.
        joint: what is averaged of a pair.
        share: of the batch in the window.
    """
    pairs = pairs_at(state["keys"], acts.shape[1])
    new = {
        "rate": rate,
        "mean": mean,
        "seen": torch.ones_like(state["seen"]),
        "joint": state["joint"] if joint is None else joint_means(acts, pairs, joint),
        "joint_seen": pairs.real,
    }
    return {
        **state,
        **{name: (1 - share) * state[name] + share * value.to(state[name].dtype) for name, value in new.items()},
    }


def moments(state: Mapping[str, Tensor], tokens_a_unit: float) -> Moments:
    """What is known of the pairs.

    Args:
        state: after this step's batch.
        tokens_a_unit: tokens looked at that make `joint_seen` 1.
    """
    rate, mean = (state[name] / state["seen"].clamp_min(TINY) for name in ("rate", "mean"))
    pairs = pairs_at(state["keys"], len(rate))
    joint = state["joint"] / state["joint_seen"].clamp_min(TINY).unsqueeze(1)
    # Equally frequent ones: the stronger. No order of the latents may matter.
    i_is_parent = (rate[pairs.i] > rate[pairs.j]) | (
        (rate[pairs.i] == rate[pairs.j]) & (mean[pairs.i] >= mean[pairs.j])
    )
    parent, child = pairs.i.where(i_is_parent, pairs.j), pairs.j.where(i_is_parent, pairs.i)
    if joint.shape[1]:
        joint = joint[:, 0].where(i_is_parent, joint[:, -1])
    return Moments(rate[parent], rate[child], mean[parent], mean[child], joint, state["joint_seen"] * tokens_a_unit)


def joint_means(acts: Tensor, pairs: Pairs, joint: Joint) -> Tensor:
    """Means over tokens (num_pairs, 1 or 2) of what the pairs do together; acts (num_tokens, d_sae)."""
    acts = acts.float()
    sums = _by_products(acts, pairs, joint) if acts.shape[1] <= SMALL else _by_pairs(acts, pairs, joint)
    return sums / len(acts)


def _by_products(acts: Tensor, pairs: Pairs, joint: Joint) -> Tensor:
    """Sums over tokens, by the products of all latents."""
    on = (acts > 0).float()
    first = on if joint == "firing" else acts
    together = first.T @ (acts if joint == "product" else on)
    ends = [(pairs.i, pairs.j), (pairs.j, pairs.i)] if joint == "strength" else [(pairs.i, pairs.j)]
    return torch.stack([together[i, j] for i, j in ends], dim=1)


def _by_pairs(acts: Tensor, pairs: Pairs, joint: Joint) -> Tensor:
    """Sums over tokens, by the products of each pair."""
    by_latent = acts.T.contiguous()
    if joint == "product":
        return products(pairs, by_latent, by_latent).unsqueeze(1)
    on = (by_latent > 0).to(by_latent.dtype)
    if joint == "firing":
        return products(pairs, on, on).unsqueeze(1)
    return torch.stack([products(pairs, by_latent, on), products(pairs, on, by_latent)], dim=1)
