"""The intervention: latents that are active are set to a negative value, and the error of the SAE stays."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.evaluate.model.config import Mode


@dataclass(frozen=True)
class Clamp:
    """What is done at the hook to some latents of one SAE."""

    latents: Tensor
    """(num_latents,) int64"""
    multiplier: float
    mode: Mode
    """fixed: a latent is set to -multiplier in units in which its decoder vector has norm 1; reference: to -multiplier
    as it is, so that the effect depends on how the SAE's decoder is scaled"""

    def __call__(self, x: Tensor, acts: Tensor, W_dec: Tensor) -> Tensor:
        """x + decode(clamped acts) - decode(acts), float32: the error x - decode(acts) is kept.

        Decoding is affine, so only the clamped latents count: each active one adds -multiplier u_j - acts_j W_dec[j],
        where u_j is the unit vector along W_dec[j] (fixed; nothing, where that is 0) or W_dec[j] itself (reference).

        Args:
            x: (..., d_in) activations.
            acts: (..., num_latents) of `latents`, 0 where the intervention leaves a position alone.
            W_dec: (num_latents, d_in) their decoder vectors.
        """
        active = acts > 0
        along = W_dec if self.mode == "reference" else normalize(W_dec, dim=1, eps=torch.finfo(W_dec.dtype).tiny)
        added = -self.multiplier * active.to(along.dtype) @ along
        return x.float() + added - torch.where(active, acts, 0.0) @ W_dec
