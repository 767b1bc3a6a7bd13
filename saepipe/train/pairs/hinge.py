"""Hinge term that pushes the decoder rows of chosen pairs apart."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import kernels_for
from saepipe.train.pairs.keys import Pairs

MAX_GATHERED = 2**22  # numbers gathered at once: 16 MB
SMALL = 512  # up to this d_sae rows are gathered, which lets runs be stacked; above it products are sparse


def cosines(W_dec: Tensor, pairs: Pairs) -> Tensor:
    """Returns d_i . d_j of each pair (num_pairs,), without gradient; rows have unit norm."""
    W_dec = W_dec.detach()
    if len(W_dec) > SMALL:
        return products(pairs, W_dec, W_dec)
    return torch.cat([(W_dec[i] * W_dec[j]).sum(1) for i, j in in_parts(W_dec.shape[1], pairs.i, pairs.j)])


def hinge(W_dec: Tensor, pairs: Pairs, cosine: Tensor, weight: Tensor, margin: float | Tensor) -> Tensor:
    """Returns sum over pairs of weight relu(d_i . d_j - margin)^2, () with gradient to both rows and to `weight`.

    The rows' gradient is written out, not recorded by autograd, which would keep the gathered rows for the backward
    pass: num_pairs x d_in numbers are too many.

    Args:
        W_dec: (d_sae, d_in).
        pairs: pairs whose rows are pushed apart.
        cosine: (num_pairs,) from `cosines`.
        weight: (num_pairs,).
        margin: cosine up to which a pair is left alone.
    """
    excess = (cosine - margin).relu()
    slope = 2 * weight.detach() * excess
    return (weight * excess.square()).sum() + zero_with_gradient(W_dec, row_gradient(W_dec.detach(), pairs, slope))


def row_gradient(W_dec: Tensor, pairs: Pairs, slope: Tensor) -> Tensor:
    """Gradient of sum over pairs of slope_ij d_i . d_j for W_dec: (d_sae, d_in)."""
    if len(W_dec) > SMALL:
        pattern, order = pattern_of(torch.cat([pairs.i, pairs.j]), torch.cat([pairs.j, pairs.i]), len(W_dec))
        return kernels_for(W_dec.device, W_dec.dtype).decode(pattern, torch.cat([slope, slope])[order], W_dec)
    gradient = torch.zeros_like(W_dec)
    for i, j, factor in in_parts(W_dec.shape[1], pairs.i, pairs.j, slope):
        gradient.index_add_(0, i, factor.unsqueeze(1) * W_dec[j])
        gradient.index_add_(0, j, factor.unsqueeze(1) * W_dec[i])
    return gradient


def products(pairs: Pairs, first: Tensor, second: Tensor) -> Tensor:
    """Returns first[i] . second[j] of each pair (num_pairs,); `first` and `second` are (d_sae, n)."""
    pattern, order = pattern_of(pairs.i, pairs.j, len(first))
    values = kernels_for(first.device, first.dtype).sampled(pattern, first, second)
    return torch.empty_like(values).scatter(0, order, values)


def pattern_of(i: Tensor, j: Tensor, d_sae: int) -> tuple[Pattern, Tensor]:
    """Returns the pattern of the entries (i, j) of a (d_sae, d_sae) array, and their order in it, (num_pairs,)."""
    positions, order = (i * d_sae + j).sort()
    return Pattern.of_positions(positions, d_sae, d_sae), order


def zero_with_gradient(parameter: Tensor, gradient: Tensor) -> Tensor:
    """Returns zero, (), with the given gradient to `parameter`."""
    linear = (parameter * gradient).sum()
    return linear - linear.detach()


def in_parts(numbers_per_pair: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Splits tensors (num_pairs,) into parts that gather no more than `MAX_GATHERED` numbers each."""
    return zip(*(torch.split(tensor, max(1, MAX_GATHERED // numbers_per_pair)) for tensor in tensors), strict=True)
