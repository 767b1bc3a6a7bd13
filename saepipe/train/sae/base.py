"""What an architecture is: settings, and pure functions over its parameters."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import linear, normalize

from saepipe.data.component import Component
from saepipe.data.config import Count

Params = dict[str, Tensor]
"""W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,); an architecture may add its own."""


class Architecture(Component):
    """An encoder and a decoder of `d_sae` latents; a member says how pre-activations become activations.

    Parameters are float32; `dtype` is that of the matrix products and of the activations.
    """

    family: ClassVar[str] = "architecture"
    package: ClassVar[str] = "saepipe.train.sae"
    d_sae: Annotated[Count, Field(ge=1)]

    def init(self, d_in: int, encoder_scale: float, generator: torch.Generator) -> Params:
        """Decoder rows random and of unit norm, W_enc = encoder_scale * W_dec.T, biases zero; on the CPU."""
        W_dec = normalize(torch.randn(self.d_sae, d_in, generator=generator), dim=1)
        return {
            "W_enc": (encoder_scale * W_dec.T).contiguous(),
            "b_enc": torch.zeros(self.d_sae),
            "W_dec": W_dec,
            "b_dec": torch.zeros(d_in),
        }

    def pre_acts(self, params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(x - b_dec) @ W_enc + b_enc, (..., d_in) -> (..., d_sae)."""
        W_enc, b_dec = params["W_enc"], params["b_dec"]
        # The value is b_enc. b_dec's gradient goes through W_enc once, here, and not once for each row of the batch:
        # one matrix product less in the backward pass, and x - b_dec is still rounded only after the difference.
        bias = params["b_enc"] + (b_dec.detach() - b_dec) @ W_enc.detach()
        return linear((x - b_dec.detach()).to(dtype), W_enc.T.to(dtype), bias.to(dtype))

    @abstractmethod
    def activate(self, pre_acts: Tensor) -> Tensor:
        """Activations, none negative, of the same shape (..., d_sae)."""

    def encode(self, params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(..., d_in) -> acts (..., d_sae)."""
        return self.activate(self.pre_acts(params, x, dtype))

    def decode(self, params: Params, acts: Tensor) -> Tensor:
        """acts @ W_dec + b_dec, in the parameters' precision, (..., d_sae) -> (..., d_in)."""
        b_dec = params["b_dec"]
        return (acts @ params["W_dec"].to(acts.dtype)).to(b_dec.dtype) + b_dec

    def unscaled(self, params: Params, scale: float) -> Params:
        """The parameters that do to x, in raw units, what `params` do to scale * x.

        pre_acts(scale * x) = scale * ((x - b_dec / scale) @ W_enc + b_enc / scale), and the activation commutes with
        a positive factor: biases (and thresholds, where a member has them) are divided, W_enc and W_dec left alone.
        """
        return {**params, "b_enc": params["b_enc"] / scale, "b_dec": params["b_dec"] / scale}
