"""What a pair penalty logs of its choice of pairs, so that one that chooses nothing, or wrongly, is seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.train.pairs.keys import Pairs, each_once, no_pair, no_pairs, overlap
from saepipe.train.pairs.search import nearest

COSINE = (-1.0, 1.0)
GATE_RANGES: Mapping[str, tuple[float, float]] = {
    "num_pairs": (0.0, math.inf),  # chosen in this step, each once
    "selected_share": (0.0, 1.0),  # of the pairs that could be chosen
    "self_share": (0.0, 1.0),  # of the chosen, a latent with itself: must be 0
    "cos_in": COSINE,  # mean cosine of the chosen pairs
    "cos_out": COSINE,  # mean cosine of the pairs not chosen
    "max_cos_mean": COSINE,  # each latent's largest cosine with another, mean over latents; at the last refresh
    "jaccard": (0.0, 1.0),  # pairs chosen at the last refresh and at the one before: shared to all
    "survival": (0.0, 1.0),  # of those chosen at the one before, the share chosen at the last
}


@dataclass(frozen=True)
class Others:
    """The pairs that were not chosen, or of which some were."""

    num: Tensor  # ()
    cosine_sum: Tensor  # ()


def all_pairs(W_dec: Tensor) -> Others:
    """Every pair of two latents, by |sum_i d_i|^2 = sum_i |d_i|^2 + 2 sum_{i<j} d_i . d_j."""
    W_dec = W_dec.detach()
    cosine_sum = (W_dec.sum(0).square().sum() - torch.linalg.vector_norm(W_dec).square()) / 2
    return Others(torch.full_like(cosine_sum, len(W_dec) * (len(W_dec) - 1) / 2), cosine_sum)


def these_pairs(cosine: Tensor, real: Tensor) -> Others:
    """The pairs marked in `real`; (num_pairs,) twice."""
    return Others(real.sum(), (cosine * real).sum())


def mean_of(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the marked places, () and 0 where none is; (num,) twice."""
    return (values * mask).sum() / mask.sum().clamp_min(1)


def gate_statistics(
    state: Mapping[str, Tensor], pairs: Pairs, cosine: Tensor, chosen: Tensor, among: Others
) -> dict[str, Tensor]:
    """What GATE_RANGES lists, from the state of this step and the pairs marked in `chosen`, all of them of `among`."""
    num, cosine_sum = chosen.sum(), (cosine * chosen).sum()
    num_others = among.num - num
    return {
        "num_pairs": num,
        "selected_share": num / among.num.clamp_min(1),
        "self_share": (chosen & (pairs.i == pairs.j)).sum() / num.clamp_min(1),
        "cos_in": mean_of(cosine, chosen).clamp(-1, 1),
        "cos_out": ((among.cosine_sum - cosine_sum) / num_others.clamp_min(1)).clamp(-1, 1) * (num_others > 0),
        **{name: state[name] for name in ("max_cos_mean", "jaccard", "survival")},
    }


def refreshes(every: int | None, step: int, batch: int, d_sae: int) -> bool:
    """Is the search for pairs due? `every` None: as `usual_interval`."""
    return step % (every or usual_interval(batch, d_sae)) == 0


def usual_interval(batch: int, d_sae: int) -> int:
    """Steps between two searches that add about 1 % to them.

    A search has 2 d_sae^2 d_in operations, a step 12 batch d_sae d_in.
    """
    return math.ceil(100 * d_sae / (6 * batch))


def fresh_gate(num_pairs: int, d_sae: int) -> dict[str, Tensor]:
    """State: what is found out at a refresh only; `num_pairs` is the number of places for chosen pairs."""
    nothing = torch.zeros(())
    return {"chosen": no_pairs(num_pairs, d_sae), "max_cos_mean": nothing, "jaccard": nothing, "survival": nothing}


def refreshed_gate(
    state: Mapping[str, Tensor], W_dec: Tensor, keys: Tensor, chosen: Tensor, max_cos: Tensor | None = None
) -> dict[str, Tensor]:
    """That state after a refresh.

    Args:
        state: before it.
        W_dec: (d_sae, d_in).
        keys: (num_pairs,).
        chosen: (num_pairs,) bool, of the keys.
        max_cos: (d_sae,) each latent's largest cosine, where it is known already.
    """
    d_sae = len(W_dec)
    now = each_once(keys.where(chosen, no_pair(d_sae)), d_sae)
    jaccard, survival = overlap(now, state["chosen"], d_sae)
    max_cos = nearest(W_dec, 1)[0][:, 0] if max_cos is None else max_cos
    scalars = {"max_cos_mean": max_cos.mean(), "jaccard": jaccard, "survival": survival}
    return {"chosen": now} | {name: value.to(state[name].dtype) for name, value in scalars.items()}
