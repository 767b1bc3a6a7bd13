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
from functools import cache
from typing import Literal

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.kernels.pick import kernels_for
from saepipe.train.sae.base import Architecture, Params

ULP = 2.0**-7
"""Greatest relative step between neighbouring bfloat16 numbers; rounding moves one by at most half of it."""

TINY = 2.0**-60
"""Added to norms, whose squares underflow below about 2^-75, and to what smaller products flush to zero."""

SMALLEST_NORMAL = 2.0**-126
"""Processors take smaller factors of a bfloat16 product for zero."""

MOST_CANDIDATES = 0.1
"""Share of the entries above which the whole product costs less than its entries one by one."""

Screening = Literal["auto", "always", "never"]


@cache
def multiplies_bfloat16_fast() -> bool:
    """True if the CPU has instructions for products of bfloat16 factors that sum in float32."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # earlier versions of torch have none
    capabilities = {} if ask is None else ask()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def screens(screening: Screening, inputs: Tensor) -> bool:
    """True if the encoder's product of `inputs` is screened: float32 on a CPU that gains from it, or on demand.

    Not on CUDA, where a product of bfloat16 factors may be summed in parts that are rounded to bfloat16.
    """
    if screening == "never" or inputs.device.type != "cpu" or inputs.dtype != torch.float32:
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
        rounded, slack = _rounded(W), 2 * (W.shape[1] + 8) * 2.0**-24
        lost = _norm(W - rounded.float()) + slack * _norm(W)
        high = bias.bfloat16()
        low = bias - high.float() + slack * bias.abs()
        columns = [_above(_norm(W)), _above(lost), high, _above(low)]
        return cls(W, bias, torch.cat([rounded, torch.stack(columns, dim=1)], dim=1), slack)

    def pre_acts(self, sae: Architecture, params: Params, tokens: Tensor) -> Tensor | None:
        """Returns the pre-activations of some tokens (num_tokens, d_sae) that may be entries, and -inf elsewhere.

        None if too many may be: then the whole product costs less.
        """
        upper, spread = self._bounds(tokens)
        floor = sae.floor(params, upper, spread)
        if floor is None:
            return None
        floor = floor.float()
        # NaN, from sums that overflow, counts as a candidate. The floor is lowered by what rounding the bound took.
        candidates = ~(upper < floor - ULP * floor.abs())
        positions = candidates.flatten().nonzero().squeeze(1)
        if len(positions) > MOST_CANDIDATES * upper.numel():
            return None
        pattern = Pattern.of_positions(positions, *upper.shape)
        values = kernels_for(tokens.device, tokens.dtype).sampled(pattern, tokens, self.W)
        return pattern.dense_or(values + self.bias[pattern.columns], float("-inf"))

    def _bounds(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Returns upper bounds of all pre-activations, and how far below the true ones can be, (num_tokens, 1)."""
        rounded = _rounded(tokens)
        lost, length = _norm(tokens - rounded.float()) + self.slack * _norm(tokens), _norm(tokens)
        ones = torch.ones_like(lost, dtype=torch.bfloat16)
        columns = torch.stack([_above(lost), _above(length), ones, ones], dim=1)
        upper = torch.cat([rounded, columns], dim=1) @ self.rounded.T
        widest = self.rounded[:, -4:-2].float().amax(0)
        spread = (columns[:, :2].float() * widest).sum(1, keepdim=True)
        bias = ULP * self.bias.abs().max() + TINY  # how far the bias in two parts can be above it
        return upper, 2 * (1 + ULP) * spread + bias


def _rounded(factor: Tensor) -> Tensor:
    rounded = factor.bfloat16()
    return rounded.masked_fill(rounded.abs() < SMALLEST_NORMAL, 0.0)


def _norm(rows: Tensor) -> Tensor:
    return torch.linalg.vector_norm(rows, dim=1)


def _above(values: Tensor) -> Tensor:
    """Rounds up to bfloat16, with room for what norms and flushed products lose."""
    return (values + ULP * values.abs() + TINY).bfloat16()
