"""Activations of a sparse step: only the entries that a gradient can reach.

An inactive latent passes no gradient at its token. So of the five matrix products of a step only the encoder's own
must be dense; decoding and the gradients of the activations, of W_dec and of W_enc need only the active entries and
give the same numbers. Dense arrays are computed when a penalty first reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from saepipe.train.kernels import autograd
from saepipe.train.kernels.largest import largest
from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Architecture, Params, is_active
from saepipe.train.sae.dense_acts import DenseActs
from saepipe.train.sae.jumprelu import near
from saepipe.train.sae.pre_acts import PreActs
from saepipe.train.sae.straight_through import DENSE_ABOVE, StraightThrough


@dataclass(frozen=True)
class Entries:
    """Activations of a sparse step, kept as entries of (batch, d_sae); the numbers of `DenseActs`, up to rounding.

    Reading `pre_acts`, `acts` or `gate_acts` costs a pass over a dense array; the gradient of `pre_acts` costs a whole
    matrix product. Everything else costs what the entries do.
    """

    pattern: Pattern  # where the entries are, in (batch, d_sae)
    entry_pre_acts: Tensor  # (num_entries,)
    entry_acts: Tensor  # (num_entries,), never negative; without the slopes of `estimate`
    entry_gates: Tensor  # (num_entries,): what sparsity penalties act on; `entry_acts` but in a gated SAE
    constant: PreActs  # of all latents, without gradient
    estimate: StraightThrough | None  # also None where the entries carry the estimated slopes themselves

    def with_acts(self, sae: Architecture, params: Params, acts: Tensor) -> Entries:
        """Returns these entries with other activations (num_entries,)."""
        acts = self.pattern.without_padding(acts)
        return replace(self, entry_acts=acts, entry_gates=sae.gate_acts(params, self.entry_pre_acts, acts))

    @cached_property
    def pre_acts(self) -> Tensor:
        constant = self.constant
        return autograd.encode_all(constant.all, constant.inputs, constant.W_enc, constant.bias)

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
        return self.acts if self.gates_are_acts else self.pattern.dense(self.entry_gates)

    @property
    def gates_are_acts(self) -> bool:
        return self.entry_gates is self.entry_acts

    @property
    def gate_values(self) -> Tensor:
        return self.acts if self.estimate else self.entry_gates

    @property
    def gate_sum(self) -> Tensor:
        if self.estimate is not None:
            return self.acts_sum.sum()
        return autograd.total(self.pattern, self.entry_gates, self.acts_sum if self.gates_are_acts else None)

    @property
    def num_active(self) -> Tensor:
        return is_active(self.entry_acts.detach()).sum()

    def over_batch(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        if self.estimate:
            return function(self.acts).sum(0, dtype=self.constant.W_enc.dtype)
        return autograd.column_sums(self.pattern, function(self.entry_acts))

    def over_gates(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        if self.estimate:
            return function(self.acts).sum()
        return autograd.total(self.pattern, function(self.entry_gates))

    def num_near(self, threshold: Tensor, bandwidth: float) -> Tensor:
        if self.estimate is not None and self.estimate.bandwidth == bandwidth:
            return self.estimate.count
        return near(self.constant.all, threshold, bandwidth).sum(0)

    def num_above(self, threshold: Tensor | float) -> Tensor:
        if isinstance(threshold, Tensor) and threshold.dim() > 0:
            threshold = threshold[self.pattern.columns]
        return self.pattern.without_padding(self.entry_pre_acts.detach() > threshold).sum()

    def first_acts(self, num_tokens: int) -> Tensor:
        acts, num_rows = self.entry_acts.detach(), min(num_tokens, self.pattern.num_rows)
        size = num_rows * self.pattern.num_columns
        # Entries of later tokens go to one extra element, so nothing waits for the number of entries before them.
        flat = acts.new_zeros(size + 1).scatter(0, self.pattern.targets.clamp_max(size), acts)
        return flat[:size].view(num_rows, -1)

    def reconstructions(self, sae: Architecture, params: Params) -> tuple[Tensor, ...]:
        """Returns every reconstruction (batch, d_in) of the architecture; the last is x_hat."""
        x_hats = sae.entry_reconstructions(params, self.pattern, self.entry_pre_acts, self.entry_acts)
        if self.estimate is None:
            return x_hats
        slopes = self.estimate
        zeros = autograd.decode_zeros(slopes.mask, slopes.pattern, slopes.carrier, params["W_dec"])
        return (*x_hats[:-1], x_hats[-1] + zeros)

    def decode_largest(self, num_latents: int, among: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        W_dec = weights["W_dec"]
        if among.device.type == "cpu":
            return self._decode_largest_of(among.nonzero().squeeze(1), num_latents, W_dec)
        # Elsewhere nothing waits for the number of candidates, so the others are passed over instead of left out.
        candidates = self.constant.all.masked_fill(~among, float("-inf"))
        values, chosen = candidates.topk(num_latents, dim=1, sorted=False)
        return self._decode_relu(chosen, values, W_dec)

    def _decode_largest_of(self, latents: Tensor, num_latents: int, W_dec: Tensor) -> Tensor:
        """Decodes each token's largest pre-activations of the latents with these indices (num_candidates,)."""
        constant, candidates = self.constant, self.constant.of(latents)
        if num_latents < len(latents):
            chosen = largest(candidates, num_latents)
            values = candidates.gather(1, chosen)
            if num_latents < DENSE_ABOVE * len(latents):
                return self._decode_relu(latents[chosen], values, W_dec)
            candidates = torch.full_like(candidates, float("-inf")).scatter_(1, chosen, values)  # off, without gradient
        W_enc, bias = constant.W_enc.index_select(1, latents), constant.bias[latents]
        acts = autograd.encode_all(candidates, constant.inputs, W_enc, bias).relu()
        return acts @ W_dec.index_select(0, latents).to(acts.dtype)

    def _decode_relu(self, latents: Tensor, pre_acts: Tensor, W_dec: Tensor) -> Tensor:
        """Decodes positive pre-activations (batch, k) of the latents with these indices (batch, k)."""
        constant, (columns, order) = self.constant, latents.sort(dim=1)
        pattern, values = Pattern.of_sorted(columns, len(W_dec)), pre_acts.gather(1, order).flatten()
        acts = autograd.encode_at(pattern, values, constant.inputs, constant.W_enc, constant.bias).relu()
        return autograd.decode(pattern, acts, W_dec)


LatentActs = DenseActs | Entries
"""Activations of the latents on one batch, in either form; `StepContext` documents what can be read."""
