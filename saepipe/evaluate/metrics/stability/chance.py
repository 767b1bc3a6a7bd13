"""Dictionaries that agree with another seed's by chance alone: what two dictionaries share without a feature in common.

random     Directions from the normal distribution with the data's covariance, each as a ReLU latent whose threshold
           makes it about as often active as the latent that it stands for.
flipped    The SAE itself behind Q, an orthogonal map that flips the sign of each principal axis of the data at random.
           Q commutes with the covariance: mean and covariance of the rows, the cosines within the dictionary and the
           variance along each latent stay as they are. Only what lies beyond the covariance no longer fits.

An SAE that was trained on Q x in place of x would be such a one: its loss is made of distances and inner products,
which Q keeps, and its initialisation prefers no direction. (Adam does see the axes; the flipped SAE has seen those of
x.) So no second training is needed. And of all rotations Q is the sharpest: any other one moves the covariance, too,
which every SAE of the data follows, so two SAEs would be above it that have no feature in common.
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
    """Principal axes of what SAEs read and of what they reconstruct: the same, but of transcoders."""

    read: PrincipalAxes
    written: PrincipalAxes


class Chance(Protocol):
    """A dictionary by chance that stands for that of an SAE."""

    def encode(self, x: Tensor) -> SparseActs:
        """Encodes rows x (num_tokens, d_in)."""

    def dictionary(self, acts: LatentActs) -> Dictionary:
        """Returns the latents that stand for the SAE's living ones, with what `encode` gave of all tokens."""


@dataclass(frozen=True)
class Flipped:
    """The SAE behind random signs of the principal axes."""

    subject: Subject
    own: Dictionary
    axes: Axes
    signs_read: Tensor
    signs_written: Tensor

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
    """A ReLU SAE of random directions, of which each is encoder and decoder of a latent."""

    sae: SAE
    own: Dictionary
    decoder: Tensor
    """(num_latents, d_out): unit rows"""

    @classmethod
    def draw(cls, own: Dictionary, axes: Axes, generator: torch.Generator) -> Self:
        directions = axes.read.random_directions(len(own), generator)
        decoder = directions
        if axes.written is not axes.read:
            decoder = axes.written.random_directions(len(own), generator)
        num_tokens = own.acts.num_tokens
        rare = own.density.clip(0.5 / num_tokens, 1 - 0.5 / num_tokens)
        thresholds = torch.from_numpy(stats.norm.isf(rare)).to(directions)
        params = {
            "W_enc": (directions / axes.read.deviations(directions).clamp_min(1e-12).unsqueeze(1)).T,
            "b_enc": -thresholds,
            "W_dec": directions,
            "b_dec": axes.read.mean,
        }
        return cls(SAE(ReLU(d_sae=len(own)), params, {}), own, decoder)

    def encode(self, x: Tensor) -> SparseActs:
        return self.sae.encode_sparse(x)

    def dictionary(self, acts: LatentActs) -> Dictionary:
        every = np.arange(len(self.own))
        return replace(self.own, decoder=self.decoder, encoder=self.sae.W_dec.detach(), acts=acts.standardised(every))
