"""Norms and cosines of an SAE's encoder and decoder vectors; they need no data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from saepipe.evaluate.sae.firing import encoder_decoder_cosine
from saepipe.evaluate.sae.reconstruction import Autoencoder
from saepipe.evaluate.stats.decoder_cosines import SimilarPairs, similarity
from saepipe.evaluate.stats.histograms import COSINE, Histogram


@dataclass(frozen=True)
class Weights:
    """Per-latent values in float64; NaN where a vector of zeros has no direction."""

    W_dec: Tensor
    """(d_sae, d_in)"""
    norm: np.ndarray
    """(d_sae,): norms of decoder rows"""
    encoder_decoder_cosine: np.ndarray
    """(d_sae,): cosine of each latent's encoder and decoder vector"""
    max_cosine: np.ndarray
    """(d_sae,): largest cosine of each decoder row with another row"""
    nearest: np.ndarray
    """(d_sae,) int64: index of that other row; its own index if there is none"""
    cosine_histogram: Histogram
    """cosines of all pairs of decoder rows"""
    pairs: SimilarPairs

    @classmethod
    def of(cls, sae: Autoencoder, num_pairs: int) -> Weights:
        """Computes the values of one SAE, with the `num_pairs` most similar pairs."""
        W_dec = sae.W_dec.detach()
        similar = similarity(W_dec, num_pairs)
        norm, encoder_decoder = W_dec.double().norm(dim=1), encoder_decoder_cosine(sae).double()
        return cls(
            W_dec=W_dec,
            norm=norm.cpu().numpy().round(6),  # unit norm holds only up to float32
            encoder_decoder_cosine=encoder_decoder.cpu().numpy(),
            max_cosine=similar.max_cosine.double().cpu().numpy(),
            nearest=similar.nearest.cpu().numpy(),
            cosine_histogram=Histogram(COSINE, similar.counts.tolist()),
            pairs=similar.pairs,
        )
