"""Pre-activations of a sparse step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from saepipe.train.sae.base import product


@dataclass(frozen=True)
class PreActs:
    """Pre-activations of a batch, without gradient; those that were not kept are computed again when they are read."""

    inputs: Tensor  # (batch, d_in) left factor of the encoder's product
    W_enc: Tensor  # (d_in, d_sae)
    bias: Tensor  # (d_sae,)
    latents: Tensor | None  # (num_kept,) indices of the latents that were kept; None: all
    kept: Tensor  # (batch, num_kept)

    @cached_property
    def all(self) -> Tensor:
        """(batch, d_sae)"""
        return self.kept if self.latents is None else product(self.inputs, self.W_enc, self.bias)

    def of(self, latents: Tensor) -> Tensor:
        """Returns those of the latents with these indices, (batch, num_latents)."""
        if self.latents is None:
            return self.kept.index_select(1, latents)
        if torch.equal(self.latents, latents):
            return self.kept
        return product(self.inputs, self.W_enc.index_select(1, latents), self.bias[latents])
