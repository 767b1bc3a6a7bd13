"""Encoding at inference: only the activations that are not 0, in the order of their tokens.

The same product as `Architecture.encode`, a block at a time, so that no array (num_tokens, d_sae) is ever in memory. A
NaN counts as an entry. On a processor that multiplies bfloat16 fast the screen of a sparse step replaces the product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.train.kernels import autograd
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Architecture, Params, center, params_of, product
from saepipe.train.sae.encoding import PIECE
from saepipe.train.sae.screen import Screen
from saepipe.train.sae.screening import Screening, screens
from saepipe.train.sae.straight_through import DENSE_ABOVE

BLOCK = 2048, 1024
"""Tokens (less than 2^15) and latents of a block of pre-activations, whose 8 MiB stay in a CPU's cache until read."""

HELD = 2**26
"""Activations held at a time where `encode` computes all of them."""


@dataclass(frozen=True)
class SparseActs:
    """Activations that are not 0 of (num_tokens, d_sae)."""

    pattern: Pattern
    values: Tensor  # (num_entries,)

    @classmethod
    def of(cls, acts: Tensor) -> SparseActs:
        """Returns the entries of acts (num_tokens, d_sae)."""
        pattern = Pattern.of_mask(acts != 0)
        return cls(pattern, pattern.values_of(acts))

    @classmethod
    def stacked(cls, parts: Sequence[SparseActs]) -> SparseActs:
        """Returns the activations of several groups of tokens, one below the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(Pattern.stacked([part.pattern for part in parts]), torch.cat([part.values for part in parts]))

    def decode(self, sae: Architecture, params: Params) -> Tensor:
        """Returns x_hat (num_tokens, d_in). On a CPU it costs what the entries do, if they are few."""
        pattern = self.pattern
        few = pattern.num_entries <= DENSE_ABOVE * pattern.num_rows * pattern.num_columns
        if few and self.values.device.type == "cpu" and type(sae).decode is Architecture.decode:
            return autograd.decode(pattern, self.values, params["W_dec"]).to(params["b_dec"].dtype) + params["b_dec"]
        return sae.decode(params, pattern.dense(self.values))


@torch.no_grad()
def encode_sparse(sae: Architecture, params: Params, x: Tensor, screening: Screening = "auto") -> SparseActs:
    """Encodes x (num_tokens, d_in) as `sae.encode` does, up to the rounding of one dot product; without gradient.

    Args:
        sae: architecture.
        params: its parameters.
        x: activations.
        screening: whether a product of rounded factors first rules out what cannot be active.
    """
    (num_tokens, num_latents), d_sae = BLOCK, sae.d_sae
    if not (x.device.type == "cpu" and _has_nonzero(sae, params)):
        parts = (sae.encode(params, part) for part in torch.split(x, max(1, HELD // d_sae)))
        return SparseActs.stacked([SparseActs.of(acts) for acts in parts])
    inputs, bias = sae.encoder_input(params, x)
    # To prepare a screen costs several passes over W_enc, which few tokens do not repay.
    if (
        sae.holds("floor")
        and screens(screening, inputs.device, inputs.dtype)
        and (screening == "always" or len(x) >= num_tokens)
    ):
        return SparseActs.stacked(list(_screened(sae, params, inputs, bias)))
    if sae.elementwise and d_sae > num_latents:
        return SparseActs.stacked([_by_blocks(sae, params, part, bias) for part in torch.split(inputs, num_tokens)])
    tokens = torch.split(inputs, max(PIECE, num_tokens * num_latents // d_sae))
    return SparseActs.stacked([_whole(sae, params, part, bias) for part in tokens])


def _has_nonzero(sae: Architecture, params: Params) -> bool:
    """Returns whether `nonzero` gives the entries of `encode`.

    Not of a class that encodes or chooses them in a way of its own. And from biases and thresholds that are not finite,
    `activate` makes NaN of latents that are not active, which are to be found.
    """
    usual = type(sae).encode is Architecture.encode and type(sae).pre_acts is Architecture.pre_acts
    finite = (bool(value.isfinite().all()) for value in params.values() if value.dim() < 2)
    return usual and sae.holds("nonzero") and all(finite)


def _screened(sae: Architecture, params: Params, inputs: Tensor, bias: Tensor) -> Iterator[SparseActs]:
    screen: Screen | None = Screen.of(params["W_enc"], bias, center(params))  # rows of a cache are not scaled
    for tokens in torch.split(inputs, PIECE):
        pre_acts = None if screen is None else screen.pre_acts(sae, params, tokens, nonzero=True)
        if pre_acts is None:
            screen = None  # the other tokens will have as many candidates
            yield _whole(sae, params, tokens, bias)
        else:
            yield _entries(sae, params, pre_acts)


def _whole(sae: Architecture, params: Params, tokens: Tensor, bias: Tensor) -> SparseActs:
    return _entries(sae, params, product(tokens, params["W_enc"], bias))


def _entries(sae: Architecture, params: Params, pre_acts: Tensor) -> SparseActs:
    """Returns the entries, from all pre-activations (num_tokens, d_sae) that may be active and -inf for others."""
    positions, values = sae.nonzero(params, pre_acts)
    return SparseActs(Pattern.of_positions(positions, *pre_acts.shape), values)


def _by_blocks(sae: Architecture, params: Params, tokens: Tensor, bias: Tensor) -> SparseActs:
    """Encodes some latents at a time, which do not depend on the others."""
    rows, columns, values = [], [], []
    for latents in torch.split(torch.arange(sae.d_sae), BLOCK[1]):
        pre_acts = product(tokens, params["W_enc"][:, latents[0] : latents[-1] + 1], bias[latents])
        positions, acts = sae.nonzero(params_of(params, latents), pre_acts)
        rows.append(torch.div(positions, len(latents), rounding_mode="floor"))
        columns.append(positions - rows[-1] * len(latents) + latents[0])
        values.append(acts)
    row = torch.cat(rows)
    order = row.short().argsort(stable=True)  # by row; numbers of 16 bits are sorted in linear time
    positions = (row * sae.d_sae + torch.cat(columns))[order]
    return SparseActs(Pattern.of_positions(positions, len(tokens), sae.d_sae), torch.cat(values)[order])
