"""Exact rewrites of an SAE's parameters between the conventions of libraries; the function stays the same."""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.train.sae.base import Params

COLUMNS = 8192
"""Latents at a time, since a float64 copy of a whole encoder might not fit in memory."""

_UNSCALED = frozenset({"b_dec", "r_mag", "b_in", "W_skip"})
"""Parameters that do not scale with the activations of latents."""


def b_dec_subtracted(params: Params) -> Params:
    """Returns parameters for the input x - b_dec that are equivalent to `params` for the input x.

    x W_enc + b_enc = (x - b_dec) W_enc + (b_enc + b_dec W_enc), summed in float64; in a gated SAE the magnitude,
    which uses W_enc exp(r_mag), is shifted too.
    """
    return _shifted(params, 1.0)


def b_dec_left_in(params: Params) -> Params:
    """Returns parameters for the input x that are equivalent to `params` for the input x - b_dec; the exact inverse."""
    return _shifted(params, -1.0)


def _shifted(params: Params, sign: float) -> Params:
    parts = torch.split(params["W_enc"], COLUMNS, dim=1)
    shift = sign * torch.cat([params["b_dec"].double() @ part.double() for part in parts])
    shifted = {**params, "b_enc": (params["b_enc"].double() + shift).float()}
    if "b_mag" in params:
        shifted["b_mag"] = (params["b_mag"].double() + shift * params["r_mag"].double().exp()).float()
    return shifted


def decoder_norms(params: Params) -> Tensor:
    """Returns the norms of the decoder rows, (d_sae,)."""
    return torch.linalg.vector_norm(params["W_dec"], dim=1)


def are_unit(norms: Tensor) -> bool:
    """Returns whether all norms are 1, within the tolerance that dictionary_learning uses."""
    return torch.allclose(norms, torch.ones_like(norms))


def unit_rows(params: Params) -> Params:
    """Returns parameters with decoder rows of unit norm, whose activations are |W_dec_i| times those of `params`.

    The encoder, its biases and the thresholds absorb the norms, so x_hat stays the same. Valid only if a latent's
    activation depends on that latent alone: a top-k would choose others. Latents with a zero decoder row stay the same.
    """
    norms = decoder_norms(params)
    if are_unit(norms):
        return params
    norms = norms.where(norms > 0, 1.0)
    scaled = {name: params[name] * norms for name in params if name not in _UNSCALED | {"W_dec"}}
    return {**params, **scaled, "W_dec": params["W_dec"] / norms.unsqueeze(1)}
