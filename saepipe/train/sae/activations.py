"""Activations of one batch as penalties read them, and their dense form; `entries.py` has the sparse form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from saepipe.train.sae.jumprelu import near


def is_active(acts: Tensor) -> Tensor:
    """Returns where latents are active, bool: the one definition for training and evaluation."""
    return acts > 0


class Activations(Protocol):
    """Activations of one batch. Every array can be read and has its gradient, whatever form they are kept in."""

    @property
    def pre_acts(self) -> Tensor:
        """(batch, d_sae) in the compute dtype."""

    @property
    def acts(self) -> Tensor:
        """(batch, d_sae) in the compute dtype, never negative, after the transforms."""

    @property
    def acts_sum(self) -> Tensor:
        """(d_sae,) float32: acts summed over the batch."""

    @property
    def gate_acts(self) -> Tensor:
        """(batch, d_sae): what makes a latent sparse; `acts`, but the ReLU of the gate in a gated SAE."""

    @property
    def gate_values(self) -> Tensor:
        """Every entry of `gate_acts` that may differ from 0 or has a gradient; of any shape."""

    @property
    def gate_sum(self) -> Tensor:
        """() float32: gate_acts summed over batch and latents."""

    @property
    def num_active(self) -> Tensor:
        """() number of active entries, without gradient."""

    def over_batch(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Sums over the batch a function of each activation that is 0 at 0: (d_sae,) float32."""

    def num_near(self, threshold: Tensor, bandwidth: float) -> Tensor:
        """Counts per latent the pre-activations within bandwidth / 2 of its threshold: (d_sae,)."""

    def first_acts(self, num_tokens: int) -> Tensor:
        """Returns `acts` of the batch's first tokens, (num_tokens, d_sae), without gradient."""

    def decode_largest(self, num_latents: int, among: Tensor, W_dec: Tensor) -> Tensor:
        """Decodes, without b_dec, each token's largest pre-activations among the given latents, cut at 0.

        Args:
            num_latents: number of latents per token.
            among: (d_sae,) bool, the latents to choose from.
            W_dec: (d_sae, d_in).

        Returns:
            (batch, d_in).
        """


@dataclass(frozen=True, kw_only=True)
class DenseActivations:
    """Activations of all latents on all tokens: the definition of what `Activations` promises."""

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

    def num_near(self, threshold: Tensor, bandwidth: float) -> Tensor:
        return near(self.pre_acts, threshold, bandwidth).sum(0)

    def first_acts(self, num_tokens: int) -> Tensor:
        return self.acts[:num_tokens].detach()

    def decode_largest(self, num_latents: int, among: Tensor, W_dec: Tensor) -> Tensor:
        values, indices = self.pre_acts.masked_fill(~among, float("-inf")).topk(num_latents, dim=1, sorted=False)
        acts = self.pre_acts.new_zeros(self.pre_acts.shape).scatter(1, indices, values.relu())
        return acts @ W_dec.to(acts.dtype)
