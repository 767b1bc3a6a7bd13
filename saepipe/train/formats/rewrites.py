"""The same SAE by other parameters: exact rewrites between the conventions of libraries."""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.train.sae.base import Params

COLUMNS = 8192
"""Latents at a time, where float64 copies of a whole encoder would not fit."""

_OF_A_DIRECTION = frozenset({"b_dec", "r_mag"})
"""Vectors that do not come in the unit of the activations."""


def b_dec_subtracted(params: Params) -> Params:
    """The parameters that do to x - b_dec what `params` do to x.

    x W_enc + b_enc = (x - b_dec) W_enc + (b_enc + b_dec W_enc), summed in float64; in a gated SAE the magnitude,
    where W_enc comes with exp(r_mag), is shifted too.
    """
    return _shifted(params, 1.0)


def b_dec_left_in(params: Params) -> Params:
    """The parameters that do to x what `params` do to x - b_dec: the other way round, as exactly."""
    return _shifted(params, -1.0)


def _shifted(params: Params, sign: float) -> Params:
    parts = torch.split(params["W_enc"], COLUMNS, dim=1)
    shift = sign * torch.cat([params["b_dec"].double() @ part.double() for part in parts])
    shifted = {**params, "b_enc": (params["b_enc"].double() + shift).float()}
    if "b_mag" in params:
        shifted["b_mag"] = (params["b_mag"].double() + shift * params["r_mag"].double().exp()).float()
    return shifted


def decoder_norms(params: Params) -> Tensor:
    """(d_sae,) lengths of the decoder rows."""
    return torch.linalg.vector_norm(params["W_dec"], dim=1)


def are_unit(norms: Tensor) -> bool:
    """Whether all are 1, as far as dictionary_learning tells."""
    return torch.allclose(norms, torch.ones_like(norms))


def unit_rows(params: Params) -> Params:
    """The parameters with decoder rows of unit norm whose activations are |W_dec_i| times those of `params`.

    The encoder, its biases and the thresholds take the norms on, so x_hat stays. Only for activations that depend on
    their own latent alone: a top-k would choose others. A latent without a decoder row stays as it is.
    """
    norms = decoder_norms(params)
    if are_unit(norms):
        return params
    norms = norms.where(norms > 0, 1.0)
    scaled = {name: params[name] * norms for name in params if name not in _OF_A_DIRECTION | {"W_dec"}}
    return {**params, **scaled, "W_dec": params["W_dec"] / norms.unsqueeze(1)}
