"""What an architecture is: settings, and pure functions over its parameters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import linear, normalize

from saepipe.data.config.base import Count
from saepipe.data.config.component import Component
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.estimate import Estimate

Params = dict[str, Tensor]
"""W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in), b_dec (d_in,); an architecture may add its own."""


class Architecture(Component):
    """An encoder and a decoder of `d_sae` latents; a member says how pre-activations become activations.

    Parameters are float32; `dtype` is that of the matrix products and of the activations. All methods are pure
    functions of tensors and work under torch.func.vmap.
    """

    family: ClassVar[str] = "architecture"
    package: ClassVar[str] = "saepipe.train.sae"
    buffers: ClassVar[frozenset[str]] = frozenset()
    """Parameters that no gradient trains."""
    elementwise: ClassVar[bool] = False
    """Whether a latent's activation depends on no other latent's, so that some can be had without the rest."""
    sparse: ClassVar[bool] = False
    """Whether it has sparse steps: it overrides `pattern`, or `mask`."""
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
        inputs, bias = self.encoder_input(params, x, dtype)
        return product(inputs, params["W_enc"], bias)

    def encoder_input(self, params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """What W_enc multiplies (..., d_in), without gradient, and the bias (d_sae,) that carries b_dec's too."""
        W_enc, b_dec = params["W_enc"], params["b_dec"]
        # The value is b_enc. b_dec's gradient goes through W_enc once, here, and not once for each row of the batch:
        # one matrix product less in the backward pass, and x - b_dec is still rounded only after the difference.
        bias = params["b_enc"] + (b_dec.detach() - b_dec) @ W_enc.detach()
        return (x - b_dec.detach()).to(dtype), bias

    @property
    def num_active(self) -> float | None:
        """Active latents a token, where the architecture and no penalty decides on it."""
        return None

    @abstractmethod
    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        """Activations, none negative, of the same shape (..., d_sae), each token on its own."""

    def activate_training(self, params: Params, pre_acts: Tensor) -> Tensor:
        """Activations of a training batch (batch, d_sae), where they differ from `activate`."""
        return self.activate(params, pre_acts)

    def mask(self, params: Params, pre_acts: Tensor) -> Tensor:
        """The entries (batch, d_sae) that are active in training, bool."""
        raise NotImplementedError(f"{self.name} has no sparse steps")

    def estimate(self, params: Params, pre_acts: Tensor) -> Estimate | None:
        """The slopes that training estimates, at all pre-activations (batch, d_sae); `activate_training` has them."""
        return None

    def pattern(self, params: Params, pre_acts: Tensor) -> Pattern:
        """The active entries, of all pre-activations (batch, d_sae) of a sparse step."""
        return Pattern.of_mask(self.mask(params, pre_acts))

    def activate_at(self, params: Params, pre_acts: Tensor, latents: Tensor) -> Tensor:
        """The activations of active entries: pre_acts (num_entries,) of the latents with these indices."""
        return self.activate(of_latents(params, latents), pre_acts)

    def gate_acts(self, params: Params, pre_acts: Tensor, acts: Tensor) -> Tensor:
        """What sparsity penalties act on (batch, d_sae)."""
        return acts

    def threshold(self, params: Params) -> Tensor | None:
        """(d_sae,) that a pre-activation must exceed to be active, where there is one."""
        return None

    def observe(self, params: Params, acts: Tensor) -> Mapping[str, Tensor]:
        """New values of the buffers after a training step that gave `acts` (batch, d_sae)."""
        return {}

    def encode(self, params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """(..., d_in) -> acts (..., d_sae)."""
        return self.activate(params, self.pre_acts(params, x, dtype))

    def encode_some(self, params: Params, x: Tensor, latents: Tensor) -> Tensor:
        """(..., d_in) -> acts (..., num_latents) of the latents with these indices; only theirs where `elementwise`."""
        if not self.elementwise:
            return self.encode(params, x)[..., latents]
        narrow = of_latents(params, latents)
        return self.encode({**narrow, "W_enc": params["W_enc"][:, latents], "b_dec": params["b_dec"]}, x)

    def decode(self, params: Params, acts: Tensor) -> Tensor:
        """acts @ W_dec + b_dec, in the parameters' precision, (..., d_sae) -> (..., d_in)."""
        b_dec = params["b_dec"]
        return (acts @ params["W_dec"].to(acts.dtype)).to(b_dec.dtype) + b_dec

    def reconstructions(self, params: Params, pre_acts: Tensor, acts: Tensor) -> tuple[Tensor, ...]:
        """All (batch, d_in) whose errors the loss adds up in training; the last is x_hat."""
        return (self.decode(params, acts),)

    def inference(self, params: Params) -> tuple[Architecture, Params]:
        """What is saved: an architecture whose `activate` needs no batch, and its parameters."""
        return self, params

    def unscaled(self, params: Params, scale: float) -> Params:
        """The parameters that do to x, in raw units, what `params` do to scale * x.

        pre_acts(scale * x) = scale * ((x - b_dec / scale) @ W_enc + b_enc / scale), and the activation commutes with
        a positive factor: biases (and thresholds, where a member has them) are divided, W_enc and W_dec left alone.
        """
        return {**params, "b_enc": params["b_enc"] / scale, "b_dec": params["b_dec"] / scale}


def product(inputs: Tensor, W_enc: Tensor, bias: Tensor) -> Tensor:
    """inputs @ W_enc + bias in the dtype of `inputs`, (..., d_in) -> (..., d_sae)."""
    return linear(inputs, W_enc.T.to(inputs.dtype), bias.to(inputs.dtype))


def of_latents(params: Params, latents: Tensor) -> Params:
    """What single numbers an architecture keeps of each latent (biases, thresholds), of those with these indices."""
    return {name: value[latents] for name, value in params.items() if value.dim() == 1 and name != "b_dec"}
