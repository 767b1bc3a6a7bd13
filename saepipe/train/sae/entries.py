"""The encoder of a sparse step: one dense product, then only the entries that a gradient can reach.

An inactive latent passes no gradient at its token. So of the five matrix products of a step only the encoder's own
must be dense; decoding and the gradients of the activations, of W_dec and of W_enc need only the active entries and
give the same numbers. Dense arrays are computed when a penalty first reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from saepipe.train.kernels import autograd
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Architecture, Params, is_active, product
from saepipe.train.sae.dense_acts import DenseActs
from saepipe.train.sae.jumprelu import near
from saepipe.train.sae.straight_through import DENSE_ABOVE, StraightThrough


@dataclass(frozen=True)
class Entries:
    """Activations of a sparse step, kept as entries of (batch, d_sae); the numbers of `DenseActs`, up to rounding.

    Reading `pre_acts`, `acts` or `gate_acts` costs a pass over a dense array; the gradient of `pre_acts` costs a whole
    matrix product. Everything else costs what the entries do.
    """

    pattern: Pattern  # where the entries are, in (batch, d_sae)
    entry_pre_acts: Tensor  # (num_entries,)
    entry_acts: Tensor  # (num_entries,), never negative; without the straight-through slopes
    entry_gates: Tensor  # (num_entries,): what sparsity penalties act on; `entry_acts` but in a gated SAE
    constant_pre_acts: Tensor  # (batch, d_sae) every pre-activation, without gradient
    inputs: Tensor  # (batch, d_in) left factor of the encoder's product
    W_enc: Tensor  # (d_in, d_sae)
    bias: Tensor  # (d_sae,)
    estimate: StraightThrough | None

    @cached_property
    def pre_acts(self) -> Tensor:
        return autograd.encode_all(self.constant_pre_acts, self.inputs, self.W_enc, self.bias)

    @cached_property
    def acts(self) -> Tensor:
        acts = self.pattern.dense(self.entry_acts)
        return acts if self.estimate is None else acts + self.estimate.mask * self.estimate.carrier

    @cached_property
    def acts_sum(self) -> Tensor:
        acts_sum = autograd.column_sums(self.pattern, self.entry_acts)
        return acts_sum if self.estimate is None else acts_sum + self.estimate.count * self.estimate.carrier

    @cached_property
    def gate_acts(self) -> Tensor:
        return self.acts if self.entry_gates is self.entry_acts else self.pattern.dense(self.entry_gates)

    @property
    def gate_values(self) -> Tensor:
        return self.acts if self.estimate else self.entry_gates

    @property
    def gate_sum(self) -> Tensor:
        return self.gate_values.to(self.W_enc.dtype).sum()

    @property
    def num_active(self) -> Tensor:
        return is_active(self.entry_acts.detach()).sum()

    def over_batch(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        if self.estimate:
            return function(self.acts).sum(0, dtype=self.W_enc.dtype)
        return autograd.column_sums(self.pattern, function(self.entry_acts))

    def num_near(self, threshold: Tensor, bandwidth: float) -> Tensor:
        if self.estimate is not None and self.estimate.bandwidth == bandwidth:
            return self.estimate.count
        return near(self.constant_pre_acts, threshold, bandwidth).sum(0)

    def first_acts(self, num_tokens: int) -> Tensor:
        acts, num_rows = self.entry_acts.detach(), min(num_tokens, self.pattern.num_rows)
        size = num_rows * self.pattern.num_columns
        # Entries of later tokens go to one extra element, so nothing waits for the number of entries before them.
        flat = acts.new_zeros(size + 1).scatter(0, self.pattern.positions.clamp_max(size), acts)
        return flat[:size].view(num_rows, -1)

    def reconstructions(self, sae: Architecture, params: Params) -> tuple[Tensor, ...]:
        """Returns every reconstruction (batch, d_in) of the architecture; the last is x_hat."""
        x_hats = sae.entry_reconstructions(params, self.pattern, self.entry_pre_acts, self.entry_acts)
        if self.estimate is None:
            return x_hats
        slopes = self.estimate
        zeros = autograd.decode_zeros(slopes.mask, slopes.pattern, slopes.carrier, params["W_dec"])
        return (*x_hats[:-1], x_hats[-1] + zeros)

    def decode_largest(self, num_latents: int, among: Tensor, W_dec: Tensor) -> Tensor:
        if among.device.type == "cpu":
            return self._decode_largest_of(among.nonzero().squeeze(1), num_latents, W_dec)
        # Elsewhere nothing waits for the number of candidates, so the others are passed over instead of left out.
        candidates = self.constant_pre_acts.masked_fill(~among, float("-inf"))
        pattern = Pattern.of_indices(candidates.topk(num_latents, dim=1, sorted=False).indices, len(among))
        values = pattern.values_of(self.constant_pre_acts).masked_fill(~among[pattern.columns], float("-inf"))
        return self._decode_relu(pattern, values, W_dec)

    def _decode_largest_of(self, latents: Tensor, num_latents: int, W_dec: Tensor) -> Tensor:
        """Decodes each token's largest pre-activations of the latents with these indices (num_candidates,)."""
        candidates = self.constant_pre_acts.index_select(1, latents)
        if num_latents < DENSE_ABOVE * len(latents):
            chosen = candidates.topk(num_latents, dim=1, sorted=False).indices
            pattern = Pattern.of_indices(latents[chosen], len(W_dec))
            return self._decode_relu(pattern, pattern.values_of(self.constant_pre_acts), W_dec)
        W_enc, bias = self.W_enc.index_select(1, latents), self.bias[latents]
        acts = autograd.encode_all(candidates, self.inputs, W_enc, bias).relu()
        if num_latents < len(latents):
            values, chosen = acts.topk(num_latents, dim=1, sorted=False)
            acts = torch.zeros_like(acts).scatter(1, chosen, values)
        return acts @ W_dec.index_select(0, latents).to(acts.dtype)

    def _decode_relu(self, pattern: Pattern, pre_acts: Tensor, W_dec: Tensor) -> Tensor:
        acts = autograd.encode_at(pattern, pre_acts, self.inputs, self.W_enc, self.bias).relu()
        return autograd.decode(pattern, acts, W_dec)


def encode(sae: Architecture, params: Params, x: Tensor, dtype: torch.dtype) -> Entries:
    """Encodes x (batch, d_in) by an architecture that has sparse steps; `dtype` is that of the products."""
    W_enc, (inputs, bias) = params["W_enc"], sae.encoder_input(params, x, dtype)
    with torch.no_grad():
        constant = product(inputs, W_enc, bias)
        pattern = sae.pattern(params, constant)
    pre_acts = autograd.encode_at(pattern, pattern.values_of(constant), inputs, W_enc, bias)
    acts = sae.activate_at(params, pre_acts, pattern.columns)
    gates = sae.gate_acts(params, pre_acts, acts)
    return Entries(pattern, pre_acts, acts, gates, constant, inputs, W_enc, bias, sae.estimate(params, constant))


LatentActs = DenseActs | Entries
"""Activations of the latents on one batch, in either form; `StepContext` documents what can be read."""
