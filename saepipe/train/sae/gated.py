"""Gated SAE: a gate decides whether a latent is active, not how much (Rajamanoharan et al. 2024, arXiv 2404.16014)."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from saepipe.train.kernels.pattern import Pattern
from saepipe.train.sae.base import Architecture, Params, entries_above


class Gated(Architecture):
    """acts = 1[gate > 0] max(magnitude, 0), with both from the same encoder directions:

        gate = pre_acts = (x - b_dec) W_enc + b_enc
        magnitude = (x - b_dec) W_enc exp(r_mag) + b_mag = (pre_acts - b_enc) exp(r_mag) + b_mag

    The step has no slope. The gate learns from the sparsity penalties, which act on max(gate, 0), and from a second
    reconstruction, of max(gate, 0) through a detached decoder. So the penalties do not shrink acts.
    """

    name: Literal["gated"] = "gated"
    dense_arrays: ClassVar[float] = 8.25
    elementwise: ClassVar[bool] = True
    sparse: ClassVar[bool] = True
    in_pieces: ClassVar[bool] = True

    @property
    def num_reconstructions(self) -> int:
        return 2

    def init(self, d_in: int, encoder_scale: float, generator: torch.Generator) -> Params:
        params = super().init(d_in, encoder_scale, generator)
        return {**params, "r_mag": torch.zeros(self.d_sae), "b_mag": torch.zeros(self.d_sae)}

    def part(self, latents: range) -> Self:
        return self.model_copy(update={"d_sae": len(latents)})

    def activate(self, params: Params, pre_acts: Tensor) -> Tensor:
        rescale, shift = params["r_mag"].exp(), params["b_mag"] - params["b_enc"] * params["r_mag"].exp()
        magnitude = pre_acts * rescale.to(pre_acts.dtype) + shift.to(pre_acts.dtype)
        return magnitude.relu() * (pre_acts > 0)

    def mask(self, params: Params, pre_acts: Tensor) -> Tensor:
        return pre_acts > 0

    def nonzero(self, params: Params, pre_acts: Tensor) -> tuple[Tensor, Tensor]:
        positions, gates = entries_above(pre_acts, 0.0)
        acts = self.activate_at(params, gates, positions % pre_acts.shape[1])
        return positions[acts != 0], acts[acts != 0]

    def among(self, params: Params, entries: Pattern, pre_acts: Tensor) -> Tensor:
        return pre_acts > 0

    def floor(self, params: Params, upper: Tensor, spread: Tensor) -> Tensor:
        return spread.new_zeros(())

    def gate_acts(self, params: Params, pre_acts: Tensor, acts: Tensor) -> Tensor:
        return pre_acts.relu()

    def reconstructions(self, params: Params, pre_acts: Tensor, acts: Tensor) -> tuple[Tensor, ...]:
        frozen = {name: params[name].detach() for name in ("W_dec", "b_dec")}
        return self.decode(frozen, pre_acts.relu()), self.decode(params, acts)

    def entry_reconstructions(
        self, params: Params, pattern: Pattern, pre_acts: Tensor, acts: Tensor
    ) -> tuple[Tensor, ...]:
        frozen = {name: params[name].detach() for name in ("W_dec", "b_dec")}
        (of_gates,) = super().entry_reconstructions(frozen, pattern, pre_acts, pre_acts.relu())
        return of_gates, *super().entry_reconstructions(params, pattern, pre_acts, acts)

    def unscaled(self, params: Params, scale: float) -> Params:
        return {**super().unscaled(params, scale), "b_mag": params["b_mag"] / scale}
