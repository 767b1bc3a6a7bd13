"""The push that drives decoder rows apart, on chosen pairs only."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import kernels_for
from saepipe.train.pairs.keys import Pairs

NUMBERS = 2**22  # gathered at once: 16 MB
SMALL = 512  # up to this d_sae rows are gathered, and runs can be stacked; above it products are sparse


def cosines(W_dec: Tensor, pairs: Pairs) -> Tensor:
    """d_i . d_j of each pair (num_pairs,), without gradient; rows have unit norm."""
    W_dec = W_dec.detach()
    if len(W_dec) > SMALL:
        return products(pairs, W_dec, W_dec)
    return torch.cat([(W_dec[i] * W_dec[j]).sum(1) for i, j in chunks(W_dec.shape[1], pairs.i, pairs.j)])


def hinge(W_dec: Tensor, pairs: Pairs, cosine: Tensor, weight: Tensor, margin: float | Tensor) -> Tensor:
    """sum over pairs of weight relu(d_i . d_j - margin)^2, () with gradient to both rows and to `weight`.

    The rows' gradient is written out, not recorded: gathered rows would be kept for the backward pass, and
    num_pairs x d_in of them are too many.

    Args:
        W_dec: (d_sae, d_in).
        pairs: whose rows are pushed apart.
        cosine: (num_pairs,) as `cosines` gives them.
        weight: (num_pairs,).
        margin: the cosine below which nothing is pushed.
    """
    excess = (cosine - margin).relu()
    slope = 2 * weight.detach() * excess
    return (weight * excess.square()).sum() + with_gradient(W_dec, pull(W_dec.detach(), pairs, slope))


def pull(W_dec: Tensor, pairs: Pairs, slope: Tensor) -> Tensor:
    """The gradient of sum over pairs of slope_ij d_i . d_j: (d_sae, d_in)."""
    if len(W_dec) > SMALL:
        pattern, order = pattern_of(torch.cat([pairs.i, pairs.j]), torch.cat([pairs.j, pairs.i]), len(W_dec))
        return kernels_for(W_dec.device, W_dec.dtype).decode(pattern, torch.cat([slope, slope])[order], W_dec)
    gradient = torch.zeros_like(W_dec)
    for i, j, by in chunks(W_dec.shape[1], pairs.i, pairs.j, slope):
        gradient.index_add_(0, i, by.unsqueeze(1) * W_dec[j])
        gradient.index_add_(0, j, by.unsqueeze(1) * W_dec[i])
    return gradient


def products(pairs: Pairs, first: Tensor, second: Tensor) -> Tensor:
    """first[i] . second[j] of each pair (num_pairs,); both (d_sae, n)."""
    pattern, order = pattern_of(pairs.i, pairs.j, len(first))
    found = kernels_for(first.device, first.dtype).sampled(pattern, first, second)
    return torch.empty_like(found).scatter(0, order, found)


def pattern_of(i: Tensor, j: Tensor, d_sae: int) -> tuple[Pattern, Tensor]:
    """The entries (i, j) of a (d_sae, d_sae) array, and the order in which the pattern holds them: (num_pairs,)."""
    positions, order = (i * d_sae + j).sort()
    return Pattern.of_positions(positions, d_sae, d_sae), order


def with_gradient(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Zero, () with the given gradient to `parameter`."""
    linear = (parameter * gradient).sum()
    return linear - linear.detach()


def chunks(numbers_a_pair: int, *of_pairs: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """The pairs' tensors in parts so small that a part gathers no more than `NUMBERS` numbers."""
    return zip(*(torch.split(tensor, max(1, NUMBERS // numbers_a_pair)) for tensor in of_pairs), strict=True)
