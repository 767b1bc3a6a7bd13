"""What the geometry of one SAE is: its weights, and how its latents and their most similar pairs fire."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from saepipe.evaluate.metrics.geometry.joint_firing import PairCounts
from saepipe.evaluate.metrics.geometry.latent_pairs import mean_conditional, mean_lift
from saepipe.evaluate.metrics.geometry.weights import Weights
from saepipe.evaluate.stats.histograms import COSINE, LOG10_DENSITY, NORM, Histogram, histogram
from saepipe.evaluate.stats.intervals import Estimate


@dataclass(frozen=True)
class Portrait:
    """All that is known of one SAE."""

    weights: Weights
    density: np.ndarray
    """(d_sae,): share of kept tokens on which each latent is active"""
    pairs: PairCounts
    """of `weights.pairs`"""

    @property
    def alive(self) -> np.ndarray:
        """(d_sae,) bool"""
        return self.density > 0

    @property
    def log10_density(self) -> np.ndarray:
        """(d_sae,); NaN for a latent that is never active."""
        return np.log10(self.density, out=np.full_like(self.density, np.nan), where=self.alive)

    @property
    def pair_cosine(self) -> np.ndarray:
        """(num_pairs,)"""
        return self.weights.pairs.cosine.double().cpu().numpy()

    def figures(self) -> dict[str, dict[str, float | int | Estimate]]:
        """By category and key."""
        w, no_rows = self.weights, "there are no two decoder rows to compare"
        return {
            "decoder": {
                "mean_max_decoder_cosine": mean(w.max_cosine, no_rows),
                **{f"frac_max_decoder_cosine_over_{at}": share_over(w.max_cosine, at / 100) for at in (50, 70, 90)},
                "mean_decoder_norm": mean(w.norm, "there is no latent"),
            },
            "encoder": {
                "mean_encoder_decoder_cosine": mean(w.encoder_decoder, "no latent has two vectors that are not zero"),
            },
            "density": {
                "frac_dead": float((~self.alive).mean()),
                "frac_dense": share_over(self.density, 0.1),
                "mean_log10_density": mean(self.log10_density, "no latent was active"),
            },
            "pairs": {
                "mean_pair_cosine": mean(self.pair_cosine, no_rows),
                "mean_pair_conditional": mean_conditional(self.pairs),
                "mean_pair_lift": mean_lift(self.pairs),
            },
        }

    def histograms(self) -> dict[str, Histogram]:
        return {
            "decoder_cosine": self.weights.cosines,
            "max_decoder_cosine": histogram(self.weights.max_cosine, COSINE),
            "encoder_decoder_cosine": histogram(self.weights.encoder_decoder, COSINE),
            "decoder_norm": histogram(self.weights.norm, NORM),
            "log10_density": histogram(self.log10_density, LOG10_DENSITY),
        }


def mean(values: np.ndarray, undefined: str) -> float | Estimate:
    """Over those that are numbers."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else Estimate(None, reason=undefined)


def share_over(values: np.ndarray, limit: float) -> float:
    """Of all; NaN is over nothing."""
    return float((values > limit).mean())
