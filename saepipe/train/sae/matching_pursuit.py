"""Matching pursuit: latents are chosen one after another, each for what the earlier ones have left over.

MP-SAE (Costa et al. 2025, arXiv 2506.03093), with the fixed number of steps of SynthSAEBench (arXiv 2602.14687).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from saepipe.data.config.base import Count
from saepipe.train.sae.active_count import check_k
from saepipe.train.sae.base import Architecture, Params


class MatchingPursuit(Architecture):
    """From r = x - b_dec, k times: i = argmax_j d_j . r, v = max(d_i . r, 0), acts_i += v, r -= v d_i.

    The encoder is the decoder's transpose, without a bias: W_enc and b_enc are copies that no gradient trains, and a
    child whose parent is on reads what the parent has not explained. A latent that is chosen twice counts once in L0.

    What is left of r is known by its pre-activations alone, D r, which v d_i changes by v D d_i. The gradient passes
    through all steps, but not through the choice of latents.
    """

    name: Literal["matching_pursuit"] = "matching_pursuit"
    buffers: ClassVar[frozenset[str]] = frozenset({"W_enc", "b_enc"})
    tied: ClassVar[bool] = True
    k: Annotated[Count, Field(ge=1)]

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        check_k(self.k, self.d_sae, whole=True)
        return self

    @property
    def num_active(self) -> float:
        return self.k

    @property
    def held_rows(self) -> float:
        return 2.5 * self.k

    def pre_acts(self, params: Params, x: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        return super().pre_acts(_tied(params), x, dtype)

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        W_dec = params["W_dec"].to(pre_acts.dtype)
        latents, values = _pursue(W_dec.detach(), pre_acts.detach(), self.k)
        if torch.is_grad_enabled():  # the same values by a formula that has a gradient, and needs every chosen row
            values = _solve(W_dec, pre_acts, latents, values)
        return torch.zeros_like(pre_acts).scatter_add(-1, latents, values.to(pre_acts.dtype))

    def observe(self, params: Params, acts: Tensor) -> Mapping[str, Tensor]:
        tied = _tied(params)
        return {name: tied[name].detach() for name in self.buffers}

    def inference(self, params: Params) -> tuple[Architecture, Params]:
        return self, _tied(params)


def _tied(params: Params) -> Params:
    """Returns the parameters with the encoder that belongs to the decoder."""
    return {**params, "W_enc": params["W_dec"].T, "b_enc": torch.zeros_like(params["b_enc"])}


def _pursue(W_dec: Tensor, pre_acts: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the latents chosen at each step, (..., k) int64, and the values added to their activations, (..., k)."""
    left, steps = pre_acts.to(_wide(pre_acts)), []
    for _ in range(k):
        value, latent = left.max(-1)
        value = value.relu()
        steps.append((latent, value))
        left = left - value.unsqueeze(-1) * (W_dec[latent] @ W_dec.T)
    latents, values = zip(*steps, strict=True)
    return torch.stack(latents, -1), torch.stack(values, -1)


def _solve(W_dec: Tensor, pre_acts: Tensor, latents: Tensor, values: Tensor) -> Tensor:
    """Returns the values of the steps that chose these latents, differentiable; `values` tells where they are 0.

    Step t reads what is left of its pre-activation, v_t = p_t - sum_(s < t) v_s (d_s . d_t): a triangular system.
    """
    rows, wide = W_dec[latents], _wide(pre_acts)  # (..., k, d_in)
    counts = values > 0
    overlaps = (rows @ rows.mT).to(wide).tril(-1) * counts.unsqueeze(-1)
    chosen = pre_acts.gather(-1, latents).to(wide) * counts
    solved = torch.linalg.solve_triangular(overlaps, chosen.unsqueeze(-1), upper=False, unitriangular=True)
    return solved.squeeze(-1).relu()


def _wide(tensor: Tensor) -> torch.dtype:
    """Returns the dtype in which steps are summed: at least float32."""
    return torch.promote_types(tensor.dtype, torch.float32)
