"""The constraint of a soft-frozen decoder: its rows stay near their start."""

from __future__ import annotations

import torch
from torch import Tensor

_LEAST = 1e-12
"""Least squared sine of a row's angle to its start, so that a row on the far side of it divides by no zero."""


def keep_near_start(W_dec: Tensor, start: Tensor, min_cosine: float) -> None:
    """Turns each row d of W_dec that has left the cone around its start s back to the cone's nearest direction.

    That is c s + sqrt(1 - c^2) u, with c = min_cosine and u the unit vector along d - (d . s) s. All other rows keep
    their bits.

    Args:
        W_dec: (..., d_sae, d_out), rows of unit norm; changed in place.
        start: of the same shape, rows of unit norm.
        min_cosine: least cosine of a row with its start, in [0, 1).
    """
    cosine = torch.einsum("...i,...i->...", W_dec, start).unsqueeze(-1)
    left = cosine < min_cosine
    shrink = ((1 - min_cosine**2) / (1 - cosine.square()).clamp_min(_LEAST)).sqrt()
    W_dec.mul_(torch.where(left, shrink, 1.0))
    W_dec.addcmul_(start, torch.where(left, min_cosine - shrink * cosine, 0.0))
