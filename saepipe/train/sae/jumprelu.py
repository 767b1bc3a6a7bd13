"""A threshold for each latent, learned (Rajamanoharan et al. 2024, arXiv 2407.14435)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from saepipe.train.sae.base import Architecture, Params
from saepipe.train.sae.estimate import Estimate

BANDWIDTH = 1.0


class JumpReLU(Architecture):
    """acts = pre_acts where they exceed their latent's threshold, and 0 elsewhere.

    The jump has no slope, so the threshold's gradient is estimated from the pre-activations near it:

        d acts_i / d threshold_i = -(threshold_i / bandwidth) K((pre_acts_i - threshold_i) / bandwidth),
        K(u) = 1 where |u| < 1/2, else 0

    d acts / d pre_acts is that of the active latents alone. What makes it sparse is the penalty `l0`.
    A threshold is the parameter where that is positive, else 0; the gradient goes on as if it were not cut, so that a
    latent at 0 (where this is a ReLU) can leave it again.

    Units: E|x|^2 = d_in, so x along any direction is of size 1. The paper's 0.001 for both settings, at E|x|^2 = 1 and
    d_in 3584, would be 0.06 here. A bandwidth of 1 reaches thresholds from everywhere that pre-activations are, and
    0.5 is two standard deviations of a pre-activation at the default initialisation; docs/training.md compares.
    """

    name: Literal["jumprelu"] = "jumprelu"
    elementwise: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    bandwidth: Annotated[float, Field(gt=0)] = BANDWIDTH
    initial_threshold: Annotated[float, Field(ge=0)] = 0.5

    def init(self, d_in: int, encoder_scale: float, generator: torch.Generator) -> Params:
        params = super().init(d_in, encoder_scale, generator)
        return {**params, "threshold": torch.full((self.d_sae,), self.initial_threshold)}

    def threshold(self, params: Params) -> Tensor:
        parameter = params["threshold"]
        return parameter + (parameter.relu() - parameter).detach()

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        return pre_acts * (pre_acts > self.threshold(params))

    def activate_training(self, params: Params, pre_acts: Tensor) -> Tensor:
        estimate = self.estimate(params, pre_acts)
        return self.activate(params, pre_acts) + estimate.mask * estimate.carrier

    def estimate(self, params: Params, pre_acts: Tensor) -> Estimate:
        threshold = self.threshold(params)
        frozen = threshold.detach()
        carrier = -frozen / self.bandwidth * (threshold - frozen)
        return Estimate(near(pre_acts, frozen, self.bandwidth), carrier.to(pre_acts.dtype), self.bandwidth)

    def mask(self, params: Params, pre_acts: Tensor) -> Tensor:
        return pre_acts > self.threshold(params)

    def inference(self, params: Params) -> tuple[Architecture, Params]:
        return self, {**params, "threshold": self.threshold(params)}

    def unscaled(self, params: Params, scale: float) -> Params:
        return {**super().unscaled(params, scale), "threshold": params["threshold"] / scale}


def near(pre_acts: Tensor, threshold: Tensor | float, bandwidth: float) -> Tensor:
    """K((pre_acts - threshold) / bandwidth), the rectangle kernel: bool of the shape of pre_acts (..., d_sae)."""
    pre_acts = pre_acts.detach()
    return (pre_acts > threshold - bandwidth / 2) & (pre_acts < threshold + bandwidth / 2)
