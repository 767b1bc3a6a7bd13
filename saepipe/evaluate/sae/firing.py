"""Statistics of single latents: on how many tokens each is active, and the geometry of its weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from saepipe.evaluate.sae.reconstruction import Autoencoder
from saepipe.train.rundir.load import SAE

_BLOCK = 1024
"""Rows whose cosines with all others are held at a time, twice while the next are computed."""


@dataclass(frozen=True)
class ActiveCounts:
    """Counts of the tokens and contexts on which each latent is active."""

    tokens: torch.Tensor
    """(d_sae,) int64: kept tokens"""
    contexts: torch.Tensor
    """(d_sae,) int64: contexts with at least one such token"""
    num_contexts: int

    @classmethod
    def zeros(cls, d_sae: int) -> ActiveCounts:
        return cls(torch.zeros(d_sae, dtype=torch.int64), torch.zeros(d_sae, dtype=torch.int64), 0)

    def add(self, num_active: torch.Tensor) -> ActiveCounts:
        """Adds a batch: num_active (num_contexts, d_sae) tokens of each context on which each latent is active."""
        return ActiveCounts(
            self.tokens + num_active.sum(0, dtype=torch.float64).long().cpu(),
            self.contexts + (num_active > 0).sum(0).cpu(),
            self.num_contexts + len(num_active),
        )


def weight_figures(sae: Autoencoder, *, with_zeros: bool = False) -> dict[str, torch.Tensor]:
    """Returns norms and cosines of encoder and decoder, (d_sae,) float32 each; NaN for directions of zero vectors.

    The bias of a gated SAE is its magnitude bias, as in SAEBench.
    """
    encoder, decoder = sae.W_enc.detach().float().T, sae.W_dec.detach().float()
    return {
        "encoder_bias": getattr(sae, "b_mag", sae.b_enc).detach().float(),
        "encoder_norm": encoder.norm(dim=1),
        "encoder_decoder_cosine_sim": encoder_decoder_cosine(sae),
        "max_decoder_cosine_sim": max_cosine(decoder, with_zeros=with_zeros),
        "max_encoder_cosine_sim": max_cosine(encoder, with_zeros=with_zeros),
    }


def weight_figures_bytes(d_in: int, d_sae: int) -> int:
    """Returns the bytes that `weight_figures` holds beside the weights."""
    return 4 * d_sae * (2 * min(_BLOCK, d_sae) + 2 * d_in)


def encoder_decoder_cosine(sae: Autoencoder) -> torch.Tensor:
    """Returns the cosine of each latent's encoder column and decoder row, (d_sae,) float32; NaN if either is zero.

    NaN too in a transcoder, whose columns and rows are directions at two sites.
    """
    if isinstance(sae, SAE) and sae.is_transcoder:
        return torch.full((sae.d_sae,), torch.nan, device=sae.W_dec.device)
    encoder, decoder = sae.W_enc.detach().float().T, sae.W_dec.detach().float()
    cosine = (_unit(encoder) * _unit(decoder)).sum(1)
    return cosine.masked_fill(_is_zero(encoder) | _is_zero(decoder), torch.nan)


def max_cosine(rows: torch.Tensor, *, with_zeros: bool = False) -> torch.Tensor:
    """Returns each row's largest cosine with another row, (d_sae,), for (d_sae, d_in); NaN if it or all others are 0.

    With zeros, as in SAEBench, a zero row has a cosine of 0 with every other row.
    """
    directions, zero = _unit(rows), _is_zero(rows) & (not with_zeros)
    largest = torch.full_like(rows[:, 0], -torch.inf)
    for start in range(0, len(rows), _BLOCK):
        cosines = directions[start : start + _BLOCK] @ directions.T
        cosines[:, zero] = -torch.inf
        index = torch.arange(len(cosines), device=rows.device)
        cosines[index, start + index] = -torch.inf
        largest[start : start + _BLOCK] = cosines.amax(dim=1)
    return largest.masked_fill(zero | largest.isinf(), torch.nan)


def _unit(rows: torch.Tensor) -> torch.Tensor:
    return normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)


def _is_zero(rows: torch.Tensor) -> torch.Tensor:
    return (rows == 0).all(dim=1)
