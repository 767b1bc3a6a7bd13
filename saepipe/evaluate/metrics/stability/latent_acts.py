"""Activations of latents on the same tokens as sparse columns, and their correlations, some at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from saepipe.train.sae.sparse_acts import SparseActs


@dataclass(frozen=True)
class LatentActs:
    """Activations of the latents of one SAE on all tokens. Only entries are held, never (num_tokens, d_sae)."""

    entries: sparse.csc_array
    """(num_tokens, num_latents) float64"""

    @classmethod
    def of(cls, parts: Sequence[SparseActs]) -> LatentActs:
        """Joins the activations of batches, one below the other."""
        return cls(sparse.vstack([_csr(part) for part in parts], format="csr").tocsc())

    def select(self, latents: np.ndarray) -> LatentActs:
        """Returns the activations of the latents with these indices."""
        return LatentActs(self.entries[:, latents])

    @property
    def num_tokens(self) -> int:
        return self.entries.shape[0]

    @property
    def density(self) -> np.ndarray:
        """(num_latents,) float64: share of tokens on which each latent is active."""
        return np.diff(self.entries.indptr) / self.num_tokens


def _csr(acts: SparseActs) -> sparse.csr_array:
    pattern = acts.pattern
    columns, starts = pattern.columns.cpu().numpy(), pattern.row_starts.cpu().numpy()
    shape = (pattern.num_rows, pattern.num_columns)
    return sparse.csr_array((acts.values.double().cpu().numpy(), columns, starts), shape=shape)


class Correlations:
    """Pearson's correlation over tokens of each latent of a with each of b; 0 for a latent without variance."""

    def __init__(self, a: LatentActs, b: LatentActs) -> None:
        (self._a, self._mean_a), (self._b, self._mean_b) = _standardised(a), _standardised(b)

    @property
    def shape(self) -> tuple[int, int]:
        return self._a.shape[1], self._b.shape[1]

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        i, j = rows.numpy(), columns.numpy()
        products = (self._a[:, i].T @ self._b[:, j]).toarray()
        return torch.from_numpy(products - np.outer(self._mean_a[i], self._mean_b[j]))


def _standardised(acts: LatentActs) -> tuple[sparse.csc_array, np.ndarray]:
    """Returns a / (s sqrt(T)) and mean(a) / s by column: correlations are products of the former less of the latter."""
    num_tokens = acts.num_tokens
    mean = acts.entries.sum(axis=0) / num_tokens
    variance = acts.entries.power(2).sum(axis=0) / num_tokens - mean**2
    deviation = np.sqrt(variance.clip(0))
    inverse = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-7 * np.abs(mean))
    return (acts.entries @ sparse.diags_array(inverse / np.sqrt(num_tokens))).tocsc(), mean * inverse
