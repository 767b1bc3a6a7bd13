"""Each latent and its fellow: the one with the largest cosine to it in a random part of the SAE."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from saepipe.train.pairs.gates import all_pairs, fresh_gate, gate_statistics, refreshed_gate
from saepipe.train.pairs.hinge import cosines
from saepipe.train.pairs.keys import Pairs, keys_of
from saepipe.train.pairs.search import nearest


def fresh_fellows(d_sae: int) -> dict[str, Tensor]:
    """State before the first search."""
    return {"fellow": torch.arange(d_sae).roll(1), **fresh_gate(d_sae, d_sae)}


def fellows_at(
    state: Mapping[str, Tensor], W_dec: Tensor, uniform: Tensor | None, chunk: int, *, due: bool
) -> tuple[dict[str, Tensor], Pairs, Tensor]:
    """The state, each latent with its fellow, and their cosines (d_sae,), after a search where one is due."""
    state = refreshed_fellows(state, W_dec, uniform, chunk) if due else dict(state)
    pairs = fellow_pairs(state)
    return state, pairs, cosines(W_dec, pairs)


def refreshed_fellows(
    state: Mapping[str, Tensor], W_dec: Tensor, uniform: Tensor | None, chunk: int
) -> dict[str, Tensor]:
    """The state after a search in chunks of at most `chunk` latents, dealt out by `uniform` (d_sae,)."""
    assert uniform is not None, "the penalty declares that it draws"
    fellow, cosine = fellows(W_dec, uniform, chunk)
    keys = keys_of(torch.arange(len(fellow), device=fellow.device), fellow, len(fellow))
    return {**state, "fellow": fellow, **refreshed_gate(state, W_dec, keys, cosine > 0, cosine)}


def fellows(W_dec: Tensor, uniform: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """Of each row the one with the largest cosine in its chunk, and that cosine: (d_sae,) each."""
    dealt = uniform.argsort()
    cosine, fellow = [], []
    for members in dealt.tensor_split(-(-len(W_dec) // chunk)):
        largest, place = nearest(W_dec[members], 1)
        cosine.append(largest[:, 0])
        fellow.append(members[place[:, 0]])
    in_order = dealt.argsort()
    return torch.cat(fellow)[in_order], torch.cat(cosine)[in_order]


def fellow_pairs(state: Mapping[str, Tensor]) -> Pairs:
    """Each latent i and its fellow j."""
    j = state["fellow"]
    return Pairs(torch.arange(len(j), device=j.device), j, torch.ones_like(j, dtype=torch.bool))


def fellow_statistics(state: Mapping[str, Tensor], W_dec: Tensor, pairs: Pairs, cosine: Tensor) -> dict[str, Tensor]:
    """What is logged of them. Two latents that are each other's fellows are one pair."""
    again = (state["fellow"][pairs.j] == pairs.i) & (pairs.i > pairs.j)
    return gate_statistics(state, pairs, cosine, (cosine > 0) & ~again, all_pairs(W_dec))
