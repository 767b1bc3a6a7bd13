"""Intervention that sets active latents to a negative value and keeps the reconstruction error."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.evaluate.model.config import Mode
from saepipe.train.sae.base import is_active


@dataclass(frozen=True)
class Clamp:
    """Intervention at the hook on some latents of one SAE."""

    latents: Tensor
    """(num_latents,) int64"""
    multiplier: float
    mode: Mode
    """fixed: a latent is set to -multiplier in units in which its decoder row has norm 1; reference: to -multiplier
    itself, so that the effect depends on the scale of the SAE's decoder"""

    def __call__(self, x: Tensor, acts: Tensor, W_dec: Tensor) -> Tensor:
        """Returns x + decode(clamped acts) - decode(acts), float32, which keeps the error x - decode(acts).

        Decoding is affine, so only the clamped latents count: each active one adds -multiplier u_j - acts_j W_dec[j],
        where u_j is the unit vector along W_dec[j] (fixed; 0 if W_dec[j] is 0) or W_dec[j] itself (reference).

        Args:
            x: (..., d_in) activations.
            acts: (..., num_latents) of `latents`, 0 at positions to leave alone.
            W_dec: (num_latents, d_in) their decoder rows.
        """
        active = is_active(acts)
        directions = W_dec if self.mode == "reference" else normalize(W_dec, dim=1, eps=torch.finfo(W_dec.dtype).tiny)
        added = -self.multiplier * active.to(directions.dtype) @ directions
        return x.float() + added - torch.where(active, acts, 0.0) @ W_dec
