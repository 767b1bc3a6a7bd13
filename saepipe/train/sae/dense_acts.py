"""Activations of all latents on all tokens of a batch; `entries.py` has the sparse form."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from saepipe.train.sae.base import is_active
from saepipe.train.sae.jumprelu import near


@dataclass(frozen=True, kw_only=True)
class DenseActs:
    """What `StepContext` gives to penalties, computed for every latent at every token: the definition."""

    pre_acts: Tensor
    acts: Tensor
    acts_sum: Tensor
    gate_acts: Tensor

    @property
    def gate_values(self) -> Tensor:
        return self.gate_acts

    @property
    def gate_sum(self) -> Tensor:
        if self.gate_acts is self.acts:
            return self.acts_sum.sum()  # saves a pass: it was summed over the batch already
        return self.gate_acts.to(self.acts_sum.dtype).sum()

    @property
    def num_active(self) -> Tensor:
        return is_active(self.acts.detach()).sum()

    def over_batch(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(self.acts).sum(0, dtype=self.acts_sum.dtype)

    def over_gates(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        return function(self.gate_acts).sum()

    def num_near(self, threshold: Tensor, bandwidth: float) -> Tensor:
        return near(self.pre_acts, threshold, bandwidth).sum(0)

    def num_above(self, threshold: Tensor | float) -> Tensor:
        return (self.pre_acts.detach() > threshold).sum()

    def first_acts(self, num_tokens: int) -> Tensor:
        return self.acts[:num_tokens].detach()

    def decode_largest(self, num_latents: int, among: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        values, indices = self.pre_acts.masked_fill(~among, float("-inf")).topk(num_latents, dim=1, sorted=False)
        acts = self.pre_acts.new_zeros(self.pre_acts.shape).scatter(1, indices, values.relu())
        return acts @ weights["W_dec"].to(acts.dtype)
