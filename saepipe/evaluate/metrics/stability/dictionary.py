"""Dictionary of one SAE: the directions and activations of its living latents."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.evaluate.metrics.stability.latent_acts import LatentActs, StandardisedActs
from saepipe.evaluate.sae.reconstruction import Autoencoder


@dataclass(frozen=True)
class Dictionary:
    """The latents of one SAE that are active on some held-out token."""

    index: np.ndarray
    """(num_latents,) int64: their indices in the SAE"""
    density: np.ndarray
    """(num_latents,): share of tokens on which each is active"""
    decoder: Tensor
    """(num_latents, d_out): unit rows"""
    encoder: Tensor
    """(num_latents, d_in): unit rows"""
    acts: StandardisedActs

    @classmethod
    def of(cls, sae: Autoencoder, acts: LatentActs) -> Dictionary:
        """Leaves out the latents that are never active in `acts`, those of all d_sae."""
        index = acts.density.nonzero()[0]
        latents = torch.from_numpy(index)
        return cls(
            index=index,
            density=acts.density[index],
            decoder=_unit(sae.W_dec[latents]),
            encoder=_unit(sae.W_enc.T[latents]),
            acts=acts.standardised(index),
        )

    def __len__(self) -> int:
        return len(self.index)


def _unit(rows: Tensor) -> Tensor:
    rows = rows.detach().float()
    return normalize(rows, dim=1, eps=torch.finfo(rows.dtype).tiny)
