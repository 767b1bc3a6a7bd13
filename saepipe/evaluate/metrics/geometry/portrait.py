"""Geometry of one SAE: its weights, the densities of its latents, and the joint counts of its most similar pairs."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan

import numpy as np
import torch

from saepipe.evaluate.metrics.geometry.joint_firing import PairCounts
from saepipe.evaluate.metrics.geometry.latent_pairs import mean_conditional, mean_lift
from saepipe.evaluate.metrics.geometry.weights import Weights
from saepipe.evaluate.stats.decoder_cosines import mean_absolute_cosine
from saepipe.evaluate.stats.histograms import COSINE, LOG10_DENSITY, NORM, Histogram, histogram
from saepipe.evaluate.stats.intervals import Estimate


@dataclass(frozen=True)
class Portrait:
    """Weights, densities and pair counts of one SAE."""

    weights: Weights
    density: np.ndarray
    """(d_sae,): share of kept tokens on which each latent is active"""
    pairs: PairCounts
    """counts of `weights.pairs`"""
    projection: float | Estimate
    """n-th decoder projection"""

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
        """Returns the figures by category and key."""
        w, no_rows = self.weights, "there are no two decoder rows to compare"
        return {
            "decoder": {
                "mean_max_decoder_cosine": mean(w.max_cosine, no_rows),
                **{f"frac_max_decoder_cosine_over_{pct}": share_above(w.max_cosine, pct / 100) for pct in (50, 70, 90)},
                "mean_abs_decoder_cosine": self._mean_abs_cosine(),
                "nth_decoder_projection": self.projection,
                "mean_decoder_norm": mean(w.norm, "there is no latent"),
            },
            "encoder": {
                "mean_encoder_decoder_cosine": mean(w.encoder_decoder_cosine, "no latent has two nonzero vectors"),
            },
            "density": {
                "frac_dead": float((~self.alive).mean()),
                "frac_dense": share_above(self.density, 0.1),
                "mean_log10_density": mean(self.log10_density, "no latent was active"),
            },
            "pairs": {
                "mean_pair_cosine": mean(self.pair_cosine, no_rows),
                "mean_pair_conditional": mean_conditional(self.pairs),
                "mean_pair_lift": mean_lift(self.pairs),
            },
        }

    def _mean_abs_cosine(self) -> float | Estimate:
        """Returns c_dec of the alive latents: the rows of others are random, and would hide how much these overlap."""
        alive = torch.from_numpy(self.alive).to(self.weights.W_dec.device)
        value = mean_absolute_cosine(self.weights.W_dec[alive])
        return Estimate(None, reason="fewer than two latents are alive") if isnan(value) else value

    def histograms(self) -> dict[str, Histogram]:
        return {
            "decoder_cosine": self.weights.cosine_histogram,
            "max_decoder_cosine": histogram(self.weights.max_cosine, COSINE),
            "encoder_decoder_cosine": histogram(self.weights.encoder_decoder_cosine, COSINE),
            "decoder_norm": histogram(self.weights.norm, NORM),
            "log10_density": histogram(self.log10_density, LOG10_DENSITY),
        }


def mean(values: np.ndarray, undefined: str) -> float | Estimate:
    """Returns the mean of the values that are not NaN; `undefined` is the reason if there are none."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else Estimate(None, reason=undefined)


def share_above(values: np.ndarray, limit: float) -> float:
    """Returns the share of all values above `limit`; NaN never counts as above."""
    return float((values > limit).mean())
