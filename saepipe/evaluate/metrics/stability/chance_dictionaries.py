"""Dictionaries that agree with those of other seeds by chance alone.

Random dictionaries have the data's covariance: normally distributed directions, each a ReLU latent whose threshold
makes it about as often active as the latent that it stands for (2505.20254 and 2606.12138 compare with random ones).

A flipped dictionary is the SAE of another seed behind Q, which flips the sign of each principal axis of the data at
random. It stands for an SAE trained on rotated rows, and needs no training. The loss is made of distances and inner
products, and the initialisation prefers no direction, so training on Q x would give the SAE of x behind Q (but for
Adam, which scales each channel by itself). Of all rotations these are the sharpest: Q commutes with the covariance.
Mean and covariance of the rows, the cosines within the dictionary and the variance along each latent stay as they are,
and only a feature beyond the covariance no longer fits. Any other rotation would move the covariance as well, and SAEs
that share nothing else would seem to agree.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from saepipe.evaluate.metrics.stability.dictionary import Dictionary
from saepipe.evaluate.metrics.stability.latent_acts import LatentActs
from saepipe.evaluate.metrics.stability.principal_axes import PrincipalAxes
from saepipe.evaluate.sae.subject import Subject
from saepipe.train.rundir.load import SAE
from saepipe.train.sae.relu import ReLU
from saepipe.train.sae.sparse_acts import SparseActs


@dataclass(frozen=True)
class Axes:
    """Principal axes of what SAEs read and of what they reconstruct: the same object, unless they are transcoders."""

    read: PrincipalAxes
    written: PrincipalAxes


class Chance(Protocol):
    """A dictionary by chance that stands for the dictionary of an SAE, latent by latent."""

    def encode(self, x: Tensor) -> SparseActs:
        """Encodes rows x (num_tokens, d_in)."""

    def dictionary(self, acts: LatentActs) -> Dictionary:
        """Returns the dictionary, given what `encode` returned for all tokens."""


@dataclass(frozen=True)
class Flipped:
    """The SAE behind random signs of the principal axes."""

    subject: Subject
    own: Dictionary
    axes: Axes
    signs_read: Tensor
    """(d_in,)"""
    signs_written: Tensor
    """(d_out,)"""

    @classmethod
    def draw(cls, subject: Subject, own: Dictionary, axes: Axes, generator: torch.Generator) -> Self:
        signs = axes.read.random_signs(generator)
        written = signs if axes.written is axes.read else axes.written.random_signs(generator)
        return cls(subject, own, axes, signs, written)

    def encode(self, x: Tensor) -> SparseActs:
        return self.subject.encode_sparse(self.axes.read.flip_rows(x, self.signs_read))

    def dictionary(self, acts: LatentActs) -> Dictionary:
        return replace(
            self.own,
            decoder=self.axes.written.flip_directions(self.own.decoder, self.signs_written),
            encoder=self.axes.read.flip_directions(self.own.encoder, self.signs_read),
            acts=acts.standardised(self.own.index),
        )


@dataclass(frozen=True)
class Random:
    """A ReLU SAE of random directions."""

    own: Dictionary
    sae: SAE
    encoder: Tensor
    """(num_latents, d_in): unit rows"""
    decoder: Tensor
    """(num_latents, d_out): unit rows, those of the encoder unless it is a transcoder"""

    @classmethod
    def draw(cls, own: Dictionary, axes: Axes, generator: torch.Generator) -> Self:
        encoder = decoder = axes.read.random_directions(len(own), generator)
        if axes.written is not axes.read:
            decoder = axes.written.random_directions(len(own), generator)
        params = {
            "W_enc": (encoder / axes.read.deviations(encoder).clamp_min(1e-12).unsqueeze(1)).T,
            "b_enc": -_thresholds(own).to(encoder),
            "W_dec": decoder,
            "b_dec": axes.read.mean,
        }
        return cls(own, SAE(ReLU(d_sae=len(own)), params, {}), encoder, decoder)

    def encode(self, x: Tensor) -> SparseActs:
        return self.sae.encode_sparse(x)

    def dictionary(self, acts: LatentActs) -> Dictionary:
        standardised = acts.standardised(np.arange(len(self.own)))
        return replace(self.own, decoder=self.decoder, encoder=self.encoder, acts=standardised)


def _thresholds(own: Dictionary) -> Tensor:
    """Returns what a standard normal variable exceeds as often as each latent is active, (num_latents,)."""
    least = 0.5 / own.acts.num_tokens
    return torch.from_numpy(stats.norm.isf(own.density.clip(least, 1 - least)))
