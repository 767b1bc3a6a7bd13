"""Where the vectors of an SAE's latents point; no data is needed."""

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
    """Latent by latent, in float64; NaN where a vector of zeros has no direction."""

    W_dec: Tensor
    """(d_sae, d_in)"""
    norm: np.ndarray
    """(d_sae,): of decoder rows"""
    encoder_decoder: np.ndarray
    """(d_sae,): cosine of each latent's two vectors"""
    max_cosine: np.ndarray
    """(d_sae,): of its decoder row with the nearest other"""
    nearest: np.ndarray
    """(d_sae,) int64: the latent of that row; itself where there is none"""
    cosines: Histogram
    """of all pairs of decoder rows"""
    pairs: SimilarPairs

    @classmethod
    def of(cls, sae: Autoencoder, num_pairs: int) -> Weights:
        """With the `num_pairs` most similar pairs."""
        W_dec = sae.W_dec.detach()
        found = similarity(W_dec, num_pairs)
        norm, along = W_dec.double().norm(dim=1), encoder_decoder_cosine(sae).double()
        return cls(
            W_dec=W_dec,
            norm=norm.cpu().numpy().round(6),  # rows of unit norm are so only up to float32
            encoder_decoder=along.cpu().numpy(),
            max_cosine=found.max_cosine.double().cpu().numpy(),
            nearest=found.nearest.cpu().numpy(),
            cosines=Histogram(COSINE, found.counts.tolist()),
            pairs=found.pairs,
        )
