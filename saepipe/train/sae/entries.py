"""The encoder of a sparse step: one whole product, then only the entries that a gradient can reach.

A latent that is off at a token passes no gradient there. So of the five matrix products of a step only the encoder's
own has to be whole; decoding, the gradient of the activations and those of W_dec and W_enc need the active entries
alone, and give the same numbers. What a penalty wants whole is made when it asks for it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from saepipe.train.kernels import autograd
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Architecture, Params, product
from saepipe.train.sae.estimate import Estimate


@dataclass(frozen=True)
class Entries:
    """A batch encoded for a sparse step."""

    pattern: Pattern  # of the entries, in (batch, d_sae)
    pre_acts: Tensor  # (num_entries,)
    acts: Tensor  # (num_entries,), none negative; without the estimated slopes
    known: Tensor  # (batch, d_sae) every pre-activation, without gradient
    inputs: Tensor  # (batch, d_in) what the encoder multiplies
    W_enc: Tensor  # (d_in, d_sae)
    bias: Tensor  # (d_sae,)
    estimate: Estimate | None

    def all_pre_acts(self) -> Tensor:
        """(batch, d_sae), with gradient."""
        return autograd.encode_all(self.known, self.inputs, self.W_enc, self.bias)

    def all_acts(self) -> Tensor:
        """(batch, d_sae), with every gradient that there is."""
        acts = self.pattern.dense(self.acts)
        return acts if self.estimate is None else acts + self.estimate.mask * self.estimate.carrier

    def acts_sum(self) -> Tensor:
        """(d_sae,) float32, over the batch."""
        acts_sum = self.over_batch(self.acts)
        return acts_sum if self.estimate is None else acts_sum + self.estimate.count * self.estimate.carrier

    def over_batch(self, values: Tensor) -> Tensor:
        """values (num_entries,) summed over the batch: (d_sae,) float32."""
        return autograd.column_sums(self.pattern, values)

    def first_acts(self, num_tokens: int) -> Tensor:
        """(num_tokens, d_sae) of the batch's first tokens, without gradient."""
        acts, size = self.acts.detach(), num_tokens * self.pattern.num_columns
        # One place more takes what other tokens have: so nothing waits for the number of entries before them.
        flat = acts.new_zeros(size + 1).scatter(0, self.pattern.positions.clamp_max(size), acts)
        return flat[:size].view(num_tokens, -1)

    def decode(self, W_dec: Tensor) -> Tensor:
        """(batch, d_in), without b_dec."""
        x_hat = autograd.decode(self.pattern, self.acts, W_dec)
        if self.estimate is None:
            return x_hat
        here = self.estimate
        return x_hat + autograd.decode_zeros(here.mask, here.pattern, here.carrier, W_dec)

    def decode_largest(self, num_latents: int, among: Tensor, W_dec: Tensor) -> Tensor:
        """As `StepContext.decode_largest`, through a pattern of its own."""
        indices = self.known.masked_fill(~among, float("-inf")).topk(num_latents, dim=1, sorted=False).indices
        pattern = Pattern.of_indices(indices, len(among))
        known = pattern.values_of(self.known).masked_fill(~among[pattern.columns], float("-inf"))
        acts = autograd.encode_at(pattern, known, self.inputs, self.W_enc, self.bias).relu()
        return autograd.decode(pattern, acts, W_dec)


def encode(sae: Architecture, params: Params, x: Tensor, dtype: torch.dtype) -> Entries:
    """Encodes x (batch, d_in) by an architecture that has sparse steps; `dtype` is that of the products."""
    W_enc, (inputs, bias) = params["W_enc"], sae.encoder_input(params, x, dtype)
    with torch.no_grad():
        known = product(inputs, W_enc, bias)
        pattern = sae.pattern(params, known)
    pre_acts = autograd.encode_at(pattern, pattern.values_of(known), inputs, W_enc, bias)
    acts = sae.activate_at(params, pre_acts, pattern.columns)
    return Entries(pattern, pre_acts, acts, known, inputs, W_enc, bias, sae.estimate(params, known))
