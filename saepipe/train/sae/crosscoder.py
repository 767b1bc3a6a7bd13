"""Crosscoders: one set of latents for the activations of several hooks (Lindsey et al. 2024, Transformer Circuits).

A crosscoder is an SAE of the hooks' activations side by side, x = (x_1, ..., x_n) of widths d_1, ..., d_n, each scaled
by a factor of its own. Rows of W_dec have unit norm over all hooks together; how it is shared out among the blocks
W_dec_l (d_sae, d_l) shows where a latent writes. `l1` weighs activations by sum_l |W_dec_l,i|.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from saepipe.train.sae.base import Architecture, Params


def norms_by_hook(W_dec: Tensor, widths: Sequence[int]) -> Tensor:
    """Returns the norm of each latent's decoder row at each hook, (d_sae, num_hooks)."""
    blocks = torch.split(W_dec, list(widths), dim=1)
    return torch.stack([torch.linalg.vector_norm(block, dim=1) for block in blocks], dim=1)


def joint_scale(scales: Sequence[float]) -> float:
    """Returns the geometric mean of the hooks' scales: acts of the saved crosscoder are those of training over it."""
    return math.exp(sum(map(math.log, scales)) / len(scales))


def in_raw_units(sae: Architecture, params: Params, widths: Sequence[int], scales: Sequence[float]) -> Params:
    """Returns parameters for raw x that are equivalent to `params` for scales_l x_l at every hook.

    Rows of W_dec no longer have unit norm if the scales differ, as the hooks' activations do not.
    """
    unit = joint_scale(scales)
    raw = sae.unscaled(params, unit)
    by_hook = zip(widths, scales, strict=True)
    factors = torch.cat([torch.full((width,), scale / unit) for width, scale in by_hook]).to(params["W_dec"].device)
    return {
        **raw,
        "W_enc": raw["W_enc"] * factors.unsqueeze(1),
        "W_dec": raw["W_dec"] / factors,
        "b_dec": raw["b_dec"] / factors,
    }


def view_params(params: Params, widths: Sequence[int], index: int) -> Params:
    """Returns the parameters of the transcoder that reads all hooks and reconstructs one of them."""
    channels = slice(sum(widths[:index]), sum(widths[: index + 1]))
    own = {"W_dec": params["W_dec"][:, channels], "b_dec": params["b_dec"][channels]}
    return {**params, **own, "b_in": params["b_dec"]}
