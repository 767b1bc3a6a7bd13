"""What can be said of each latent: how it fires, and where its weights point."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from saepipe.evaluate.sae.reconstruction import Autoencoder

_BLOCK = 1024


@dataclass(frozen=True)
class Firing:
    """On what each latent was active."""

    tokens: torch.Tensor
    """(d_sae,) int64: kept tokens"""
    contexts: torch.Tensor
    """(d_sae,) int64: contexts with at least one such token"""
    num_contexts: int

    @classmethod
    def none(cls, d_sae: int) -> Firing:
        return cls(torch.zeros(d_sae, dtype=torch.int64), torch.zeros(d_sae, dtype=torch.int64), 0)

    def add(self, firing: torch.Tensor) -> Firing:
        """With a batch more: (num_contexts, d_sae) tokens of each context on which each latent is active."""
        return Firing(
            self.tokens + firing.sum(0, dtype=torch.float64).long().cpu(),
            self.contexts + (firing > 0).sum(0).cpu(),
            self.num_contexts + len(firing),
        )


def weight_figures(sae: Autoencoder, *, with_zeros: bool = False) -> dict[str, torch.Tensor]:
    """Norms and cosines of encoder and decoder, (d_sae,) float32 each; NaN where a vector of zeros has no direction.

    The bias of a gated SAE is that of its magnitudes, as in SAEBench.
    """
    encoder, decoder = sae.W_enc.detach().float().T, sae.W_dec.detach().float()
    return {
        "encoder_bias": getattr(sae, "b_mag", sae.b_enc).detach().float(),
        "encoder_norm": encoder.norm(dim=1),
        "encoder_decoder_cosine_sim": encoder_decoder_cosine(sae),
        "max_decoder_cosine_sim": max_cosine(decoder, with_zeros=with_zeros),
        "max_encoder_cosine_sim": max_cosine(encoder, with_zeros=with_zeros),
    }


def encoder_decoder_cosine(sae: Autoencoder) -> torch.Tensor:
    """(d_sae,) float32: of each latent's encoder column and decoder row; NaN where either is zero."""
    encoder, decoder = sae.W_enc.detach().float().T, sae.W_dec.detach().float()
    along = (_unit(encoder) * _unit(decoder)).sum(1)
    return along.masked_fill(_is_zero(encoder) | _is_zero(decoder), torch.nan)


def max_cosine(rows: torch.Tensor, *, with_zeros: bool = False) -> torch.Tensor:
    """(d_sae,): each row's largest cosine with another row, from (d_sae, d_in); NaN where it or all others are 0.

    With zeros, as in SAEBench, a row of zeros has a cosine of 0 with any other.
    """
    directions, zero = _unit(rows), _is_zero(rows) & (not with_zeros)
    found = torch.full_like(rows[:, 0], -torch.inf)
    for start in range(0, len(rows), _BLOCK):
        cosines = directions[start : start + _BLOCK] @ directions.T
        cosines[:, zero] = -torch.inf
        index = torch.arange(len(cosines), device=rows.device)
        cosines[index, start + index] = -torch.inf
        found[start : start + _BLOCK] = cosines.amax(dim=1)
    return found.masked_fill(zero | found.isinf(), torch.nan)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)


def _is_zero(rows: torch.Tensor) -> torch.Tensor:
    return (rows == 0).all(dim=1)
