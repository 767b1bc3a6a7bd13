"""Most co-active pairs of latents of a batch, by A_ij = sum over tokens of acts_i acts_j."""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.train.pairs.keys import no_pair
from saepipe.train.pairs.search import Ranked, empty_ranking, top_pairs

SMALL = 4096  # up to this d_sae the tiles are always used, which lets runs be stacked
SLAB = 2**21  # pairs of active latents held at once
COST = 20_000  # multiplications that take as long as sorting one pair


def top_coactive(acts: Tensor, num_pairs: int) -> Ranked:
    """Returns the `num_pairs` pairs with the largest A_ij > 0; acts (batch, d_sae), no gradient.

    Wide SAEs with sparse activations count the pairs of active latents token by token; all others multiply. Both ways
    are exact, and neither holds an array of d_sae x d_sae.
    """
    acts = acts.detach().float() if acts.dtype.itemsize < 4 else acts.detach()
    batch, d_sae = acts.shape
    if d_sae > SMALL and num_active_pairs(acts) * COST < batch * d_sae**2:
        return by_active_latents(acts, num_pairs)
    return by_tiles(acts, num_pairs)


def num_active_pairs(acts: Tensor) -> int:
    """Number of pairs of latents active on the same token, summed over tokens. Waits for the device."""
    active = acts.count_nonzero(1)
    return int((active * (active - 1)).sum()) // 2


def by_tiles(acts: Tensor, num_pairs: int) -> Ranked:
    """Finds the pairs by multiplication, tile by tile."""
    best = top_pairs(acts.T.contiguous(), num_pairs)
    return Ranked(best.scores, best.keys.where(best.scores > 0, no_pair(acts.shape[1])))


def by_active_latents(acts: Tensor, num_pairs: int) -> Ranked:
    """Finds the pairs by listing the active latents of each token.

    The pairs are listed and summed slab by slab. A slab holds all pairs whose smaller latent is in one range, so its
    sums are complete, and its best pairs are merged into the best of the slabs before.
    """
    d_sae = acts.shape[1]
    token, latent = acts.nonzero(as_tuple=True)  # by token, then by latent
    value = acts[token, latent]
    end = token.bincount(minlength=len(acts)).cumsum(0)[token]
    num_later = end - torch.arange(len(token), device=acts.device) - 1  # active latents after this one on its token
    slab = num_later.new_zeros(d_sae).index_add(0, latent, num_later).cumsum(0) // SLAB
    best = empty_ranking(num_pairs, acts.T)
    for number in torch.unique(slab).tolist():
        entries = (slab[latent] == number).nonzero().flatten()
        first, second = _with_later(entries, num_later[entries])
        keys, index = torch.unique(latent[first] * d_sae + latent[second], return_inverse=True)
        best = best.merged(value.new_zeros(len(keys)).index_add(0, index, value[first] * value[second]), keys)
    return best


def _with_later(entries: Tensor, num_later: Tensor) -> tuple[Tensor, Tensor]:
    """Pairs each entry e with each of e + 1, ..., e + num_later; returns both ends of all pairs, (num,) each."""
    first = entries.repeat_interleave(num_later)
    starts = (num_later.cumsum(0) - num_later).repeat_interleave(num_later)
    return first, first + 1 + torch.arange(len(first), device=entries.device) - starts
