"""Activation statistics per latent, in one pass: counts, mean, largest activation and a histogram."""

from __future__ import annotations

import numpy as np
import torch

from saepipe.evaluate.features.active import ActiveEntries

STEPS_PER_OCTAVE, LOWEST, HIGHEST = 4, -12, 20
EDGES = (2.0 ** (np.arange(LOWEST * STEPS_PER_OCTAVE, HIGHEST * STEPS_PER_OCTAVE + 1) / STEPS_PER_OCTAVE)).astype(
    np.float32
)
"""(num_bins + 1,): a quarter of an octave each, from 2^-12 to 2^20, so that no bound need be known before the pass.
A bin includes its lower edge. The first also holds anything smaller, the last anything larger."""


class FiringStatistics:
    """Streaming sums over tokens."""

    def __init__(self, d_sae: int, device: torch.device) -> None:
        self._num = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self._sum = torch.zeros(d_sae, dtype=torch.float64, device=device)
        self._max = torch.zeros(d_sae, device=device)
        self._counts = torch.zeros(d_sae, len(EDGES) - 1, dtype=torch.int32, device=device)
        self._inner = torch.from_numpy(EDGES[1:-1]).to(device)

    def add(self, entries: ActiveEntries) -> None:
        ones = torch.ones_like(entries.latent)
        self._num.index_add_(0, entries.latent, ones)
        self._sum.index_add_(0, entries.latent, entries.act.double())
        self._max.scatter_reduce_(0, entries.latent, entries.act, "amax")
        bins = torch.bucketize(entries.act, self._inner, right=True)
        self._counts.view(-1).index_add_(0, entries.latent * self._counts.shape[1] + bins, ones.int())

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
