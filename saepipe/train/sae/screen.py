"""A screen for the encoder of a sparse step: a product of rounded factors shows which entries can matter.

The encoder's product is computed whole only to learn which one per cent of its entries count. In bfloat16 it costs a
fraction of float32 on a processor that multiplies bfloat16. With x', w' the factors as rounded, by Cauchy and Schwarz

    |x . w - x' . w'| <= |x - x'| |w| + |x'| |w - w'|

from the norms of what rounding removed. The sums of n products add at most gamma |x| |w|, gamma = n u / (1 - n u) with
u = 2^-24, in the rounded product and in the exact one each (Higham 2002, Accuracy and Stability, section 3.1). The
bound has two products of a number of the token and one of the latent. So it is two more columns of both factors, two
more hold the bias, and one product gives an upper bound of every pre-activation. Only the entries whose upper bound
exceeds the architecture's floor are then computed in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Literal

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern, true_positions
from saepipe.train.kernels.pick import kernels_for
from saepipe.train.sae.base import Architecture, Params

ULP = 2.0**-7
"""Greatest relative step between neighbouring bfloat16 numbers; rounding moves one by at most half of it."""

TINY = 2.0**-60
"""Added to norms, whose squares underflow below about 2^-75, and to what smaller products flush to zero."""

SMALLEST_NORMAL = 2.0**-126
"""Processors take smaller factors of a bfloat16 product for zero."""

OVERFLOW = 1e38
"""Products of a token and a direction whose norms multiply to less have no sum that overflows."""

MOST_CANDIDATES = 0.1
"""Share of the entries above which the whole product costs less than its entries one by one."""

PREPARED = 1024
"""Latents whose directions are rounded at a time."""

Screening = Literal["auto", "always", "never"]


@cache
def multiplies_bfloat16_fast() -> bool:
    """True if the CPU has instructions for products of bfloat16 factors that sum in float32."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # earlier versions of torch have none
    capabilities = {} if ask is None else ask()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def screens(screening: Screening, device: torch.device, dtype: torch.dtype) -> bool:
    """True if the encoder's products are screened: float32 on a CPU that gains from it, or on demand.

    Not on CUDA, where a product of bfloat16 factors may be summed in parts that are rounded to bfloat16.
    """
    if screening == "never" or device.type != "cpu" or dtype != torch.float32:
        return False
    return screening == "always" or multiplies_bfloat16_fast()


@dataclass(frozen=True)
class Screen:
    """Encoder directions of one step, prepared for upper bounds."""

    W: Tensor  # (d_sae, d_in) float32
    bias: Tensor  # (d_sae,)
    rounded: Tensor  # (d_sae, d_in + 4) bfloat16: w', |w|, |w - w'|, and the bias in two parts
    slack: float  # twice gamma: for the rounded product and the exact one

    @classmethod
    def of(cls, W_enc: Tensor, bias: Tensor) -> Screen:
        W = W_enc.T
        (d_sae, d_in), slack = W.shape, 2 * (W.shape[1] + 8) * 2.0**-24
        high = bias.bfloat16()
        low = bias - high.float() + slack * bias.abs()
        rounded = torch.empty(d_sae, d_in + 4, dtype=torch.bfloat16)
        for start in range(0, d_sae, PREPARED):  # so that no second array of W's size is ever in memory
            latents = slice(start, start + PREPARED)
            part, factors, lengths = W[latents], rounded[latents, :d_in], _norm(W[latents])
            factors.copy_(_rounded(part))
            lost = _norm(part - factors.float()) + slack * lengths
            columns = [_above(lengths), _above(lost), high[latents], _above(low[latents])]
            rounded[latents, d_in:] = torch.stack(columns, dim=1)
        return cls(W, bias, rounded, slack)

    def entries(
        self, sae: Architecture, params: Params, tokens: Tensor, *, nonzero: bool = False
    ) -> tuple[Pattern, Tensor] | None:
        """Returns what may be entries of some tokens (num_tokens, d_sae), and their pre-activations (num_entries,).

        With `nonzero`, what may be nonzero activations. None if too many may be: then the whole product costs less.
        """
        upper, spread = self._bounds(tokens)
        higher = nonzero and sae.holds("floor_of_nonzero")
        floor = (sae.floor_of_nonzero if higher else sae.floor)(params, upper, spread)
        if floor is None:
            return None
        floor = floor.float()
        # The floor is lowered by what rounding the bound took.
        positions = true_positions(self._reaching(upper, floor - ULP * floor.abs(), tokens))
        if len(positions) > MOST_CANDIDATES * upper.numel():
            return None
        pattern = Pattern.of_positions(positions, *upper.shape)
        values = kernels_for(tokens.device, tokens.dtype).sampled(pattern, tokens, self.W)
        return pattern, values + self.bias[pattern.columns]

    def pre_acts(self, sae: Architecture, params: Params, tokens: Tensor, *, nonzero: bool = False) -> Tensor | None:
        """Returns the pre-activations of `entries` as an array (num_tokens, d_sae), -inf elsewhere."""
        found = self.entries(sae, params, tokens, nonzero=nonzero)
        return None if found is None else found[0].dense_or(found[1], float("-inf"))

    def _reaching(self, upper: Tensor, floor: Tensor, tokens: Tensor) -> Tensor:
        """Marks the upper bounds (num_tokens, d_sae) that are not below a floor; NaN, from sums that overflow, too."""
        length = _norm(tokens).max() if len(tokens) else tokens.new_zeros(())
        largest = length * self._widest[0] + self._largest_bias
        if not (float(largest) < OVERFLOW and bool((floor >= 0).all())):
            return (upper < floor).logical_not_()
        # Without NaN, positive numbers are ordered like their bits, which are compared several times as fast. What they
        # are compared with is cut off after 16 bits, so it is not above the floor.
        bits = (floor.view(torch.int32) >> 16).to(torch.int16)
        return torch.from_numpy(upper.view(torch.int16).numpy() >= bits.numpy())

    @cached_property
    def _widest(self) -> Tensor:
        """The largest norm of an encoder direction and of what rounding removed of one, or somewhat more, (2,)."""
        return self.rounded[:, -4:-2].float().amax(0)

    @cached_property
    def _largest_bias(self) -> Tensor:
        return self.bias.abs().max()

    def _bounds(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns upper bounds of all pre-activations, and how far below the true ones can be, (num_tokens, 1)."""
        rounded, length = _rounded(tokens), _norm(tokens)
        lost = _norm(tokens - rounded.float()) + self.slack * length
        ones = torch.ones_like(lost, dtype=torch.bfloat16)
        columns = torch.stack([_above(lost), _above(length), ones, ones], dim=1)
        upper = torch.cat([rounded, columns], dim=1) @ self.rounded.T
        spread = (columns[:, :2].float() * self._widest).sum(1, keepdim=True)
        bias = ULP * self._largest_bias + TINY  # how far the bias in two parts can be above it
        return upper, 2 * (1 + ULP) * spread + bias


def _rounded(factor: Tensor) -> Tensor:
    rounded = factor.bfloat16()
    return rounded.masked_fill(rounded.abs() < SMALLEST_NORMAL, 0.0)


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


def _above(values: Tensor) -> Tensor:
    """Rounds up to bfloat16, with room for what norms and flushed products lose."""
    return (values + ULP * values.abs() + TINY).bfloat16()
