"""A screen for the encoder of a sparse step: a product of rounded factors shows which entries can matter.

The encoder's product is computed whole only to learn which one per cent of its entries count. In bfloat16 it costs a
fraction of float32 on a processor that multiplies bfloat16. The encoder reads x = s r - b, and rows r of a cache are
bfloat16 numbers already. So the screen multiplies those, by the directions times s: with r' and w' as rounded,
v = w' / s, d = w - v and e = x + b - s r', which is 0 but for rounding if r is a row of a cache,

    x . w = r' . w' - b . v + x . d + e . v,    |x . d + e . v| <= |x| |d| + |e| |v|

by Cauchy and Schwarz. Neither the length of b nor any rounding of r is in the bound; what other tokens lose is in e.
Sums of n products add at most gamma times the product of the factors' norms, gamma = n u / (1 - n u), for the rounded
product, the exact one and b . v each (Higham 2002, Accuracy and Stability, section 3.1). Here u = 2^-24, and 2^-22 for
sums in a GPU's tensor cores, which cut numbers off at the last bit of the largest, several at a time (Fasi et al. 2021,
Numerical behavior of NVIDIA tensor cores).

The bound has two products of a number of the token and one of the latent. So it is two more columns of both factors,
two more hold the bias, and one product gives an upper bound of every pre-activation. Only the entries whose upper bound
exceeds the architecture's floor are then computed in float32.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern, true_positions
from saepipe.train.kernels.pick import kernels_for
from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.screening import free_to_read
from saepipe.train.sae.upper_bounds import ULP, Bounds

TINY = 2.0**-60
"""Added to norms, whose squares underflow below about 2^-75, and to what smaller factors and products flush to zero;
enough for any s from 2^-50 to 2^50."""

UNIT = {"cpu": 2.0**-24, "cuda": 2.0**-22}
"""Relative error of one addition in a product of bfloat16 factors."""

MOST_CANDIDATES = 0.1
"""Share of the entries above which the whole product costs less than its entries one by one."""

PREPARED = {"cpu": 2**19, "cuda": 2**25}
"""Numbers of the directions that are rounded at a time: on a CPU what its caches hold, on CUDA what needs little memory
beside them."""

COLUMNS = 4
"""Columns beside those of d_in: two of the bound, two of the bias."""

ALIGNED = 8
"""The columns of a factor are a multiple of it, which tensor cores need."""


@dataclass(frozen=True)
class Screen:
    """Encoder directions of one step, prepared for upper bounds."""

    W: Tensor  # (d_sae, d_in) float32
    bias: Tensor  # (d_sae,)
    center: Tensor  # (d_in,): b
    scale: float | Tensor  # s, a number or (d_in,)
    rounded: Tensor  # (d_sae, width) bfloat16: w', |v|, |d|, bias - b . v in two parts, zeros
    slack: float  # gamma of the rounded product and of the exact one

    @classmethod
    def of(cls, W_enc: Tensor, bias: Tensor, center: Tensor, scale: float | Tensor = 1.0) -> Screen:
        """Prepares a step.

        Args:
            W_enc: (d_in, d_sae) float32.
            bias: (d_sae,).
            center: (d_in,), what was subtracted from the rows.
            scale: factor that the rows were multiplied by before, a number or (d_in,). With any other, bounds hold too,
                but are about twice as wide.
        """
        W, (d_in, d_sae), device = W_enc.T, W_enc.shape, W_enc.device.type
        exact = gamma(d_in + ALIGNED, UNIT["cpu"])
        slack = exact + gamma(d_in + ALIGNED, UNIT[device])
        rounded = W.new_empty(d_sae, width(d_in), dtype=torch.bfloat16)
        num_latents = max(1, PREPARED[device] // d_in)
        for latents in (slice(start, start + num_latents) for start in range(0, d_sae, num_latents)):
            factors = (W[latents] * scale).bfloat16()
            v = factors.float().div_(scale)
            shifted, length, lost = bias[latents] - v @ center, _norm(W[latents]), _norm(v.sub_(W[latents]))
            high = shifted.bfloat16()
            low = shifted - high.float() + slack * (shifted.abs() + bias[latents].abs())
            columns = [_above(length + lost), _above(lost + exact * length), high, _above(low)]
            rounded[latents, :d_in] = factors
            rounded[latents, d_in : d_in + COLUMNS] = torch.stack(columns, dim=1)
            rounded[latents, d_in + COLUMNS :] = 0
        return cls(W, bias, center, scale, rounded, slack)

    def entries(
        self, sae: Architecture, params: Params, tokens: Tensor, *, nonzero: bool = False
    ) -> tuple[Pattern, Tensor] | None:
        """Returns what may be entries of some tokens (num_tokens, d_sae), and their pre-activations (num_entries,).

        With `nonzero`, what may be nonzero activations. None if too many may be: then the whole product costs less.
        Where each value within the bounds would be chosen alike (`Architecture.undecided`), it is one of those.
        """
        bounds = self._bounds(tokens)
        higher = nonzero and sae.holds("floor_of_nonzero")
        floor = (sae.floor_of_nonzero if higher else sae.floor)(params, bounds.upper, bounds.spread)
        if floor is None:
            return None
        positions = true_positions(bounds.reaching(floor.float()))
        if len(positions) > MOST_CANDIDATES * bounds.upper.numel():
            return None
        pattern = Pattern.of_positions(positions, *bounds.upper.shape)
        if nonzero or not free_to_read(tokens.device) or not sae.holds("undecided"):
            return pattern, self._exact(pattern, tokens)
        upper, lower = bounds.of(pattern)
        undecided = sae.undecided(params, upper, lower, pattern.columns)
        if undecided is None:
            return pattern, self._exact(pattern, tokens)
        chosen = true_positions(undecided)
        return pattern, upper.index_copy_(0, chosen, self._exact(pattern.only(chosen), tokens))

    def _exact(self, pattern: Pattern, tokens: Tensor) -> Tensor:
        values = kernels_for(tokens.device, tokens.dtype).sampled(pattern, tokens, self.W)
        return values + self.bias.index_select(0, pattern.columns)

    def _bounds(self, tokens: Tensor) -> Bounds:
        rows, length = tokens + self.center, _norm(tokens)
        rounded = (rows / self.scale).bfloat16()
        lost = _norm(rows - rounded.float() * self.scale) + self.slack * (length + _norm(self.center))
        left = rounded.new_zeros(len(tokens), self.rounded.shape[1])
        left[:, : tokens.shape[1]] = rounded
        columns = left[:, tokens.shape[1] :][:, :COLUMNS].fill_(1.0)  # beside the bias
        columns[:, :2] = torch.stack([_above(lost), _above(length)], dim=1)
        with summed_in_float32():
            upper = left @ self.rounded.T
        spread = (columns[:, :2].float() * self._widest).sum(1, keepdim=True)
        bias = (ULP**2 + 4 * self.slack) * self._largest_bias + 2 * TINY  # how far its two parts can be above it
        sizes = (length + lost + _norm(self.center)) * self._widest[0] + self._largest_bias
        return Bounds(upper, 2 * (1 + ULP) * spread + bias, sizes)

    @cached_property
    def _widest(self) -> Tensor:
        """The largest |v| and |d| of a latent, or somewhat more, (2,)."""
        return self._columns[:, :2].float().amax(0)

    @cached_property
    def _largest_bias(self) -> Tensor:
        return torch.maximum(self._columns[:, 2].float().abs().max(), self.bias.abs().max())

    @property
    def _columns(self) -> Tensor:
        return self.rounded[:, self.W.shape[1] :]


def width(d_in: int) -> int:
    """Returns the columns of a rounded factor."""
    return -(-(d_in + COLUMNS) // ALIGNED) * ALIGNED


def gamma(num: int, unit: float) -> float:
    """Returns the relative error of a sum of `num` products, of which each addition has the relative error `unit`."""
    return num * unit / (1 - num * unit)


@contextmanager
def summed_in_float32() -> Iterator[None]:
    """Keeps cuBLAS from adding up parts of a product of bfloat16 factors that it has rounded to bfloat16."""
    settings = torch.backends.cuda.matmul
    before = settings.allow_bf16_reduced_precision_reduction
    settings.allow_bf16_reduced_precision_reduction = False
    try:
        yield
    finally:
        settings.allow_bf16_reduced_precision_reduction = before


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=-1)


def _above(values: Tensor) -> Tensor:
    """Rounds up to bfloat16, with room for what norms and flushed products lose."""
    return (values + ULP * values.abs() + TINY).bfloat16()
