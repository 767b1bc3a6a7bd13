"""JumpReLU: a learned threshold for each latent (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Architecture, Params, entries_above
from saepipe.train.sae.straight_through import StraightThrough

BANDWIDTH = 1.0


class JumpReLU(Architecture):
    """acts = pre_acts where they exceed their latent's threshold, and 0 elsewhere.

    The jump has no slope, so the threshold's gradient is estimated from the pre-activations near it:

        d acts_i / d threshold_i = -(threshold_i / bandwidth) K((pre_acts_i - threshold_i) / bandwidth),
        K(u) = 1 if |u| < 1/2, else 0

    d acts / d pre_acts is nonzero for active latents only. The penalty `l0` makes the SAE sparse.
    A threshold is the parameter if positive, else 0. Its gradient ignores this cut, so that a latent with threshold 0
    (a ReLU) can leave it again.

    Units: E|x|^2 = d_in, so x has size 1 along any direction. The paper's 0.001 for both settings, at E|x|^2 = 1 and
    d_in 3584, would be 0.06 here. A bandwidth of 1 spans all pre-activations, and 0.5 is two standard deviations of a
    pre-activation at the default initialisation; docs/training.md compares values.
    """

    name: Literal["jumprelu"] = "jumprelu"
    dense_arrays: ClassVar[float] = 4.5
    elementwise: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    in_pieces: ClassVar[bool] = True
    bandwidth: Annotated[float, Field(gt=0)] = BANDWIDTH
    initial_threshold: Annotated[float, Field(ge=0)] = 0.5

    def init(self, d_in: int, encoder_scale: float, generator: torch.Generator) -> Params:
        params = super().init(d_in, encoder_scale, generator)
        return {**params, "threshold": torch.full((self.d_sae,), self.initial_threshold)}

    def threshold(self, params: Params) -> Tensor:
        parameter = params["threshold"]
        return parameter + (parameter.relu() - parameter).detach()

    def part(self, latents: range) -> Self:
        return self.model_copy(update={"d_sae": len(latents)})

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        return pre_acts * self.mask(params, pre_acts)

    def activate_training(self, params: Params, pre_acts: Tensor) -> Tensor:
        estimate = self.estimate(params, self.near(params, pre_acts), pre_acts.dtype)
        return self.activate(params, pre_acts) + estimate.mask * estimate.carrier

    def near(self, params: Params, pre_acts: Tensor) -> Tensor:
        return near(pre_acts, _value(params), self.bandwidth)

    def estimate(self, params: Params, near: Tensor, dtype: torch.dtype) -> StraightThrough:
        parameter = params["threshold"]
        carrier = -_value(params) / self.bandwidth * (parameter - parameter.detach())
        return StraightThrough(near, carrier.to(dtype), self.bandwidth)

    def mask(self, params: Params, pre_acts: Tensor) -> Tensor:
        return pre_acts > _value(params)

    def nonzero(self, params: Params, pre_acts: Tensor) -> tuple[Tensor, Tensor]:
        return entries_above(pre_acts, _value(params))

    def among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> Tensor:
        return pre_acts > _value(params).index_select(0, entries.columns)

    def near_among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> Tensor:
        marked = near(pre_acts, _value(params).index_select(0, entries.columns), self.bandwidth)
        return entries.dense_or(marked, False)

    def undecided(self, params: Params, upper: Tensor, lower: Tensor, latents: Tensor) -> Tensor:
        threshold = _value(params).index_select(0, latents)
        # Of a NaN, neither comparison is true.
        return ((upper < threshold) & (lower > threshold - self.bandwidth / 2)).logical_not_()

    def floor(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor:
        return _value(params) - self.bandwidth / 2  # entries whose slope is estimated lie down to there

    def floor_of_nonzero(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor:
        return _value(params)

    def inference(self, params: Params) -> tuple[Architecture, Params]:
        return self.ended(), {**params, "threshold": self.threshold(params)}

    def unscaled(self, params: Params, scale: float) -> Params:
        return {**super().unscaled(params, scale), "threshold": params["threshold"] / scale}


def _value(params: Params) -> Tensor:
    """Returns the thresholds, without gradient."""
    return params["threshold"].detach().relu()


def near(pre_acts: Tensor, threshold: Tensor | float, bandwidth: float) -> Tensor:
    """Computes the rectangle kernel K((pre_acts - threshold) / bandwidth), bool of the shape of pre_acts."""
    pre_acts = pre_acts.detach()
    return (pre_acts > threshold - bandwidth / 2) & (pre_acts < threshold + bandwidth / 2)
