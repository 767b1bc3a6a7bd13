"""Hinge term that pushes the decoder rows of chosen pairs apart."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from saepipe.train.kernels.autograd import with_gradient
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import kernels_for
from saepipe.train.pairs.keys import Pairs

MAX_GATHERED = 2**21  # numbers gathered at once for each end of the pairs: 8 MB
SMALL = 512  # up to this d_sae rows are gathered, which lets runs be stacked; above it products are sparse


def cosines(W_dec: Tensor, pairs: Pairs) -> Tensor:
    """Returns d_i . d_j of each pair (num_pairs,), without gradient; rows have unit norm."""
    W_dec = W_dec.detach()
    if len(W_dec) > SMALL:
        return products(pairs, W_dec, W_dec)
    parts = [torch.einsum("pi,pi->p", *W_dec[ends]) for (ends,) in in_parts(W_dec.shape[1], pairs.ends)]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def hinge(W_dec: Tensor, pairs: Pairs, cosine: Tensor, weight: Tensor, margin: float | Tensor = 0.0) -> Tensor:
    """Returns sum over pairs of weight relu(d_i . d_j - margin)^2, () with gradient to both rows and to `weight`.

    The rows' gradient is written out, not recorded by autograd, which would keep the gathered rows for the backward
    pass: num_pairs x d_in numbers are too many.

    Args:
        W_dec: (d_sae, d_in).
        pairs: pairs whose rows are pushed apart.
        cosine: (num_pairs,) from `cosines`.
        weight: (num_pairs,), or () for all.
        margin: cosine up to which a pair is left alone.
    """
    above = cosine if isinstance(margin, float) and margin == 0 else cosine - margin
    excess = above.relu()
    weighted = weight * excess
    return with_gradient(weighted.dot(excess), W_dec, row_gradient(W_dec.detach(), pairs, weighted.detach()))


def row_gradient(W_dec: Tensor, pairs: Pairs, weighted: Tensor) -> Tensor:
    """Returns the gradient of the hinge for W_dec (d_sae, d_in): 2 weight_ij relu(d_i . d_j - margin) times each row.

    Args:
        W_dec: (d_sae, d_in).
        pairs: pairs whose rows are pushed apart.
        weighted: (num_pairs,) weight relu(d_i . d_j - margin).
    """
    if len(W_dec) > SMALL:
        positions, order = pairs.swapped.add(pairs.ends, alpha=len(W_dec)).flatten().sort()
        pattern = Pattern.of_positions(positions, len(W_dec), len(W_dec))
        return kernels_for(W_dec.device, W_dec.dtype).decode(pattern, (2 * weighted).repeat(2)[order], W_dec)
    gradient = torch.zeros_like(W_dec)
    for ends, swapped, factor in in_parts(W_dec.shape[1], pairs.ends, pairs.swapped, weighted.unsqueeze(0)):
        terms = factor.unsqueeze(2) * W_dec[swapped]
        gradient.index_add_(0, ends.flatten(), terms.flatten(0, 1), alpha=2)
    return gradient


def products(pairs: Pairs, first: Tensor, second: Tensor) -> Tensor:
    """Returns first[i] . second[j] of each pair (num_pairs,); `first` and `second` are (d_sae, n)."""
    pattern, order = pairs.pattern
    values = kernels_for(first.device, first.dtype).sampled(pattern, first, second)
    return values if order is None else torch.empty_like(values).scatter(0, order, values)


def in_parts(numbers_per_pair: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Splits tensors (..., num_pairs) into parts that gather no more than `MAX_GATHERED` numbers at either end."""
    size = max(1, MAX_GATHERED // numbers_per_pair)
    return zip(*(torch.split(tensor, size, dim=-1) for tensor in tensors), strict=True)
