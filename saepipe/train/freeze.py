"""Frozen arms: a part of an SAE stays at its start, or near it, so that a figure shows what training it is worth.

Korznikov et al. 2026, "Sanity Checks for Sparse Autoencoders" (arXiv 2602.14111), find that such SAEs come close to
trained ones. All else is trained, b_dec too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

Freeze = Literal["decoder", "encoder", "soft_decoder"]
"""W_dec, or W_enc and b_enc, do not change; or the rows of W_dec keep a least cosine with their start."""

MIN_COSINE = 0.8
"""Least cosine of the paper's soft-frozen decoder."""

_NAMES: Mapping[str, frozenset[str]] = {"decoder": frozenset({"W_dec"}), "encoder": frozenset({"W_enc", "b_enc"})}

_LEAST = 1e-12


def frozen_names(freeze: Freeze | None) -> frozenset[str]:
    """Returns the names of the parameters that stay at their start to the last bit."""
    return _NAMES.get(freeze or "", frozenset())


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
