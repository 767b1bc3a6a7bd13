"""Statistics of a pair penalty's choice of pairs, which expose a penalty that selects nothing, or the wrong pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.train.pairs.keys import Pairs, empty_keys, no_pair, overlap, unique_keys
from saepipe.train.pairs.search import nearest

COSINE = (-1.0, 1.0)
RANGES: Mapping[str, tuple[float, float]] = {
    "num_pairs": (0.0, math.inf),  # chosen in this step, without duplicates
    "selected_share": (0.0, 1.0),  # share of the candidate pairs that are chosen
    "self_share": (0.0, 1.0),  # share of the chosen pairs that pair a latent with itself: must be 0
    "cos_in": COSINE,  # mean cosine of the chosen pairs
    "cos_out": COSINE,  # mean cosine of the pairs not chosen
    "max_cos_mean": COSINE,  # each latent's largest cosine with another, mean over latents; at the last refresh
    "jaccard": (0.0, 1.0),  # Jaccard index of the pairs chosen at the last refresh and at the one before
    "survival": (0.0, 1.0),  # share of the pairs chosen at the refresh before the last that the last one chose again
}


@dataclass(frozen=True)
class Candidates:
    """Totals over the pairs from which a penalty chooses."""

    num: Tensor  # ()
    cosine_sum: Tensor  # ()


def all_pairs(W_dec: Tensor) -> Candidates:
    """Totals over all pairs of two latents, from |sum_i d_i|^2 = sum_i |d_i|^2 + 2 sum_{i<j} d_i . d_j."""
    W_dec = W_dec.detach()
    cosine_sum = (W_dec.sum(0).square().sum() - torch.linalg.vector_norm(W_dec).square()) / 2
    return Candidates(torch.full_like(cosine_sum, len(W_dec) * (len(W_dec) - 1) / 2), cosine_sum)


def marked_pairs(cosine: Tensor, mask: Tensor) -> Candidates:
    """Totals over the pairs marked in `mask`; both arguments (num_pairs,)."""
    return Candidates(mask.sum(), (cosine * mask).sum())


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values where `mask` is true, (), and 0 if it is true nowhere; both arguments (num,)."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def statistics(
    state: Mapping[str, Tensor], pairs: Pairs, cosine: Tensor, chosen: Tensor, candidates: Candidates
) -> dict[str, Tensor]:
    """Returns the statistics of RANGES, from this step's state and the `chosen` pairs, all `candidates`."""
    num, cosine_sum = chosen.sum(), (cosine * chosen).sum()
    num_rest = candidates.num - num
    return {
        "num_pairs": num,
        "selected_share": num / candidates.num.clamp_min(1),
        "self_share": (chosen & (pairs.i == pairs.j)).sum() / num.clamp_min(1),
        "cos_in": masked_mean(cosine, chosen).clamp(-1, 1),
        "cos_out": ((candidates.cosine_sum - cosine_sum) / num_rest.clamp_min(1)).clamp(-1, 1) * (num_rest > 0),
        **{name: state[name] for name in ("max_cos_mean", "jaccard", "survival")},
    }


def search_is_due(every: int | None, step: int, batch: int, d_sae: int) -> bool:
    """True if this step searches for pairs; `every` None stands for `default_interval`."""
    return step % (every or default_interval(batch, d_sae)) == 0


def default_interval(batch: int, d_sae: int) -> int:
    """Steps between two searches, chosen so that searching takes 5 to 10 % of the time.

    A search has 2 d_sae^2 d_in operations, a step 12 batch d_sae d_in. Between two searches the pull on the chosen
    pairs falls as they turn apart, by about a fifth at most at this interval (docs/penalties.md). It is rounded to a
    divisor of 100, since other values would change runs; the log needs no divisor (saepipe/train/step/sampling.py).
    """
    most = 20 * d_sae / (6 * batch)
    return max((steps for steps in (1, 2, 4, 5, 10, 20, 25, 50, 100) if steps <= most), default=1)


def initial_state(num_pairs: int, d_sae: int) -> dict[str, Tensor]:
    """Returns the initial state of what only a refresh computes; `num_pairs` is the capacity for chosen pairs."""
    zero = torch.zeros(())
    return {"chosen": empty_keys(num_pairs, d_sae), "max_cos_mean": zero, "jaccard": zero, "survival": zero}


def refreshed_state(
    state: Mapping[str, Tensor], W_dec: Tensor, keys: Tensor, chosen: Tensor, max_cos: Tensor | None = None
) -> dict[str, Tensor]:
    """Returns the state of `initial_state` after a refresh.

    Args:
        state: before the refresh.
        W_dec: (d_sae, d_in).
        keys: (num_pairs,).
        chosen: (num_pairs,) bool, which keys are chosen.
        max_cos: (d_sae,) each latent's largest cosine; computed if None.
    """
    d_sae = len(W_dec)
    now = unique_keys(keys.where(chosen, no_pair(d_sae)), d_sae)
    jaccard, survival = overlap(now, state["chosen"], d_sae)
    max_cos = nearest(W_dec, 1)[0][:, 0] if max_cos is None else max_cos
    scalars = {"max_cos_mean": max_cos.mean(), "jaccard": jaccard, "survival": survival}
    return {"chosen": now} | {name: value.to(state[name].dtype) for name, value in scalars.items()}
