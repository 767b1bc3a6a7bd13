"""Transcoders: the latents read x at one site and reconstruct y at another (Dunefsky et al. 2024, arXiv 2406.11944).

    pre_acts = (x - b_in) W_enc + b_enc
    y_hat = acts W_dec + b_dec [+ (x - b_in) W_skip]

Any architecture can be one: its parameters then have `b_in` (d_in,), a centre of x that no gradient trains, W_enc is
(d_in, d_sae) and W_dec (d_sae, d_out). The skip, W_skip (d_in, d_out), carries what is linear in x, so that no latent
has to (Paulo et al. 2025, arXiv 2501.18823). An SAE has no `b_in`: it reads x - b_dec and reconstructs x.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from saepipe.train.sae.base import Architecture, Params

BUFFERS = frozenset({"b_in"})
"""Parameters of a transcoder that no gradient trains."""


def is_transcoder(params: Params) -> bool:
    """Returns whether these are the parameters of a transcoder."""
    return "b_in" in params


def transcoder_params(
    of_target: Params, d_in: int, encoder_scale: float, generator: torch.Generator, *, skip: bool
) -> Params:
    """Returns initial parameters of a transcoder, given those of an SAE of the same latents on y.

    The encoder's columns are random, since x and y have no coordinates in common. W_skip begins at 0.
    """
    d_sae, d_out = of_target["W_dec"].shape
    W_enc = encoder_scale * normalize(torch.randn(d_sae, d_in, generator=generator), dim=1).T
    own = {"W_skip": torch.zeros(d_in, d_out)} if skip else {}
    return {**of_target, "W_enc": W_enc, "b_in": torch.zeros(d_in), **own}


def skipped(params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor | None:
    """Computes (x - b_in) W_skip, (..., d_in) -> (..., d_out) float32, its product in `dtype`; None without a skip."""
    if "W_skip" not in params:
        return None
    inputs = (x - params["b_in"]).to(dtype)
    return linear(inputs, params["W_skip"].T.to(dtype)).to(x.dtype)


def split_rows(rows: Tensor, d_in: int) -> tuple[Tensor, Tensor]:
    """Splits rows (..., d_in + d_out) into x and the target y; rows (..., d_in) of an SAE are both."""
    return (rows, rows) if rows.shape[-1] == d_in else (rows[..., :d_in], rows[..., d_in:])


def in_raw_units(sae: Architecture, params: Params, scale: float, target_scale: float) -> Params:
    """Returns parameters for raw x and y that are equivalent to `params` for scale * x and target_scale * y.

    Activations are in the units of y, as those of an SAE are in the units of x, so decoder rows keep their norm.
    """
    factor = scale / target_scale
    raw = sae.unscaled(params, target_scale)
    maps = {name: factor * value for name, value in raw.items() if name in ("W_enc", "W_skip")}
    return {**raw, **maps, "b_in": params["b_in"] / scale}


def center_folded(params: Params) -> Params:
    """Returns equivalent parameters with a `b_in` of zeros, as other libraries have transcoders; summed in float64.

    In a gated one the magnitude, which uses W_enc exp(r_mag), is shifted too.
    """
    b_in = params["b_in"].double()
    shift = b_in @ params["W_enc"].double()
    folded = {**params, "b_in": torch.zeros_like(params["b_in"]), "b_enc": _less(params["b_enc"], shift)}
    if "b_mag" in params:
        folded["b_mag"] = _less(params["b_mag"], shift * params["r_mag"].double().exp())
    if "W_skip" in params:
        folded["b_dec"] = _less(params["b_dec"], b_in @ params["W_skip"].double())
    return folded


def centered(params: Params, b_in: Tensor) -> Params:
    """Returns equivalent parameters with this `b_in`, from those with a `b_in` of zeros; inverts `center_folded`."""
    return {**center_folded({**params, "b_in": -b_in}), "b_in": b_in}


def _less(vector: Tensor, shift: Tensor) -> Tensor:
    return (vector.double() - shift).to(vector.dtype)
