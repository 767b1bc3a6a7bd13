"""Nearest neighbour of each latent, by decoder cosine, among the latents of its random chunk of the SAE."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saepipe.train.pairs import selection
from saepipe.train.pairs.hinge import cosines
from saepipe.train.pairs.keys import Pairs, keys_of
from saepipe.train.pairs.search import nearest


def initial_nearest(d_sae: int) -> dict[str, Tensor]:
    """Returns the state before the first search."""
    return {"fellow": torch.arange(d_sae).roll(1), **selection.initial_state(d_sae, d_sae)}


def nearest_pairs(
    state: Mapping[str, Tensor], W_dec: Tensor, uniform: Tensor | None, chunk: int, *, due: bool
) -> tuple[dict[str, Tensor], Pairs, Tensor]:
    """Searches if `due`; returns the state, the pairs of each latent with its neighbour, and their cosines (d_sae,)."""
    state = refreshed_nearest(state, W_dec, uniform, chunk) if due else dict(state)
    pairs = stored_pairs(state)
    return state, pairs, cosines(W_dec, pairs)


def refreshed_nearest(
    state: Mapping[str, Tensor], W_dec: Tensor, uniform: Tensor | None, chunk: int
) -> dict[str, Tensor]:
    """Returns the state after a search in chunks of at most `chunk` latents, assigned by `uniform` (d_sae,)."""
    assert uniform is not None, "the penalty must declare `draws`"
    neighbour, cosine = nearest_in_chunk(W_dec, uniform, chunk)
    keys = keys_of(torch.arange(len(neighbour), device=neighbour.device), neighbour, len(neighbour))
    return {**state, "fellow": neighbour, **selection.refreshed_state(state, W_dec, keys, cosine > 0, cosine)}


def nearest_in_chunk(W_dec: Tensor, uniform: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Returns for each row the row of its chunk with the largest cosine to it, and that cosine: (d_sae,) each."""
    shuffled = uniform.argsort()
    cosine, neighbour = [], []
    for members in shuffled.tensor_split(-(-len(W_dec) // chunk)):
        largest, index = nearest(W_dec[members], 1)
        cosine.append(largest[:, 0])
        neighbour.append(members[index[:, 0]])
    in_order = shuffled.argsort()
    return torch.cat(neighbour)[in_order], torch.cat(cosine)[in_order]


def stored_pairs(state: Mapping[str, Tensor]) -> Pairs:
    """Returns each latent i with its neighbour j."""
    j = state["fellow"]
    return Pairs(torch.stack([torch.arange(len(j), device=j.device), j]), len(j), ascending=True)


def nearest_statistics(state: Mapping[str, Tensor], W_dec: Tensor, pairs: Pairs, cosine: Tensor) -> dict[str, Tensor]:
    """Returns the statistics to log. Two latents that are each other's neighbours count as one pair."""
    duplicate = (state["fellow"][pairs.j] == pairs.i) & (pairs.i > pairs.j)
    return selection.statistics(state, pairs, cosine, (cosine > 0) & ~duplicate, selection.all_pairs(W_dec))
