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
from saepipe.train.sae.encoding import PIECE, definer, is_screened
from saepipe.train.sae.screen import Screen
from saepipe.train.sae.screening import Screening
from saepipe.train.sae.straight_through import DENSE_ABOVE

BLOCK = 2048, 1024
"""Tokens (less than 2^15) and latents of a block of pre-activations, whose 8 MiB stay in a CPU's cache until read."""

BOUNDS = 2**19
"""Bounds of pre-activations that a screen computes at a time, unless those of `PIECE` tokens are more: 1 MiB."""

HELD = 2**26
"""Activations held at a time where `encode` computes all of them."""

FEWEST_SCREENED = 128
"""Tokens below which a screen, which costs several passes over W_enc to prepare, costs more than the product."""


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

    @property
    def share(self) -> float:
        """Share of all activations that are not 0; 0 without tokens."""
        return self.pattern.num_entries / max(1, self.pattern.num_rows * self.pattern.num_columns)

    def decode(self, sae: Architecture, params: Params) -> Tensor:
        """Returns x_hat (num_tokens, d_in). On a CPU it costs what the entries do, if they are few."""
        pattern, few = self.pattern, self.share <= DENSE_ABOVE
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
    enough = len(x) >= (1 if screening == "always" else FEWEST_SCREENED)
    if enough and is_screened(sae, screening, inputs.device, inputs.dtype, len(x) * params["W_enc"].numel()):
        pieces = torch.split(inputs, max(PIECE, BOUNDS // d_sae))
        return SparseActs.stacked(list(_screened(sae, params, pieces, bias)))
    if sae.elementwise and d_sae > num_latents:
        return SparseActs.stacked([_by_blocks(sae, params, part, bias) for part in torch.split(inputs, num_tokens)])
    pieces = torch.split(inputs, max(PIECE, num_tokens * num_latents // d_sae))
    return SparseActs.stacked([_whole(sae, params, part, bias) for part in pieces])


def _has_nonzero(sae: Architecture, params: Params) -> bool:
    """Returns whether `nonzero` gives the entries of `encode`.

    Not of a class that encodes or chooses them in a way of its own. And from biases and thresholds that are not finite,
    `activate` makes NaN of latents that are not active, which are to be found.
    """
    usual = type(sae).encode is Architecture.encode and type(sae).pre_acts is Architecture.pre_acts
    finite = (bool(value.isfinite().all()) for value in params.values() if value.dim() < 2)
    return usual and sae.holds("nonzero") and all(finite)


def _screened(sae: Architecture, params: Params, pieces: Sequence[Tensor], bias: Tensor) -> Iterator[SparseActs]:
    screen: Screen | None = Screen.of(params["W_enc"], bias, center(params))  # rows of a cache are not scaled
    for tokens in pieces:
        candidates = None if screen is None else screen.entries(sae, params, tokens, nonzero=True)
        if candidates is None:
            screen = None  # the other tokens will have as many candidates
            yield _whole(sae, params, tokens, bias)
        else:
            positions, values = definer(sae, "nonzero_among")(sae, params, *candidates)
            yield SparseActs(Pattern.of_positions(positions, len(tokens), sae.d_sae), values)


def _whole(sae: Architecture, params: Params, tokens: Tensor, bias: Tensor) -> SparseActs:
    positions, values = sae.nonzero(params, product(tokens, params["W_enc"], bias))
    return SparseActs(Pattern.of_positions(positions, len(tokens), sae.d_sae), values)


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
