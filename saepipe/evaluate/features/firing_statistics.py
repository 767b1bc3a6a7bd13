"""How each latent fires: counts, mean, largest activation and a histogram, in one pass."""

from __future__ import annotations

import numpy as np
import torch

from saepipe.evaluate.features.active import Active

STEPS_AN_OCTAVE, LOWEST, HIGHEST = 4, -12, 20
EDGES = (2.0 ** (np.arange(LOWEST * STEPS_AN_OCTAVE, HIGHEST * STEPS_AN_OCTAVE + 1) / STEPS_AN_OCTAVE)).astype(
    np.float32
)
"""(num_bins + 1,): a quarter of an octave each, from 2^-12 to 2^20, so that no bound need be known before the pass.
A bin holds its lower edge. The first holds what is smaller too, the last what is larger."""


class Figures:
    """Streaming sums over tokens."""

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self._num = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._sum = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self._max = torch.zeros(d_sae, device=device)
        self._counts = torch.zeros(d_sae, len(EDGES) - 1, dtype=torch.int32, device=device)
        self._inner = torch.from_numpy(EDGES[1:-1]).to(device)

    def add(self, found: Active) -> None:
        one = torch.ones_like(found.latent)
        self._num.index_add_(0, found.latent, one)
        self._sum.index_add_(0, found.latent, found.act.double())
        self._max.scatter_reduce_(0, found.latent, found.act, "amax")
        bins = torch.bucketize(found.act, self._inner, right=True)
        place = found.latent * self._counts.shape[1] + bins
        self._counts.view(-1).index_add_(0, place, one.int())

    @property
    def num_active(self) -> np.ndarray:
        """(d_sae,) int64"""
        return self._num.cpu().numpy()

    def arrays(self) -> dict[str, np.ndarray]:
        num, dead = self.num_active, self.num_active == 0
        total, largest = self._sum.cpu().numpy(), self._max.cpu().numpy()
        return {
            "num_active": num,
            "mean_act": np.where(dead, np.nan, total / np.maximum(num, 1)).astype(np.float32),
            "max_act": np.where(dead, np.nan, largest).astype(np.float32),
            "histogram": self._counts.cpu().numpy(),
            "histogram_edges": EDGES,
        }
