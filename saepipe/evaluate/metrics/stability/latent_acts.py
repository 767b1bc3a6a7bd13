"""Activations of latents on the same tokens as sparse columns, and their correlations, some at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from saepipe.train.sae.sparse_acts import SparseActs

_RARE = 0.01
"""Share of the terms of a dense product that are not 0, below which a sparse product is faster."""
_BLOCK = 1024
"""Tokens of a dense block."""


@dataclass(frozen=True)
class LatentActs:
    """Activations of the latents of one SAE on all tokens. Only entries are held, never (num_tokens, d_sae)."""

    entries: sparse.csc_array
    """(num_tokens, num_latents) float64"""

    @classmethod
    def of(cls, parts: Sequence[SparseActs]) -> LatentActs:
        """Joins the activations of batches, one below the other."""
        return cls(sparse.vstack([_csr(part) for part in parts], format="csr").tocsc())

    def standardised(self, latents: np.ndarray) -> StandardisedActs:
        """Returns the activations of the latents with these indices, as correlations need them."""
        entries = self.entries[:, latents]
        mean = entries.sum(axis=0) / self.num_tokens
        variance = entries.power(2).sum(axis=0) / self.num_tokens - mean**2
        deviation = np.sqrt(variance.clip(0))
        inverse = np.divide(1.0, deviation, out=np.zeros_like(deviation), where=deviation > 1e-7 * np.abs(mean))
        scaled = entries @ sparse.diags_array(inverse / np.sqrt(self.num_tokens))
        return StandardisedActs(scaled.tocsc(), mean * inverse)

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


@dataclass(frozen=True)
class StandardisedActs:
    """Activations a of some latents with mean m and standard deviation s, on T tokens."""

    scaled: sparse.csc_array
    """(num_tokens, num_latents) float64: a / (s sqrt(T)); 0 for a latent without variance"""
    means: np.ndarray
    """(num_latents,): m / s"""

    @property
    def num_tokens(self) -> int:
        return self.scaled.shape[0]


@dataclass(frozen=True)
class Correlations:
    """Pearson's correlation over tokens of each latent of a with each of b; 0 for a latent without variance."""

    a: StandardisedActs
    b: StandardisedActs

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.a.means), len(self.b.means)

    def at(self, rows: Tensor, columns: Tensor) -> Tensor:
        i, j = rows.numpy(), columns.numpy()
        products = _products(self.a.scaled[:, i], self.b.scaled[:, j])
        return torch.from_numpy(products - np.outer(self.a.means[i], self.b.means[j]))


def _products(a: sparse.csc_array, b: sparse.csc_array) -> np.ndarray:
    """Returns a.T @ b, (num_a, num_b); of entries that are not rare, as those of an untrained SAE, in dense blocks."""
    if _fill(a) * _fill(b) < _RARE:
        return (a.T @ b).toarray()
    products = np.zeros((a.shape[1], b.shape[1]))
    by_token = a.tocsr(), b.tocsr()
    for start in range(0, a.shape[0], _BLOCK):
        block_a, block_b = (part[start : start + _BLOCK].toarray() for part in by_token)
        products += block_a.T @ block_b
    return products


def _fill(acts: sparse.csc_array) -> float:
    return acts.nnz / max(1, acts.shape[0] * acts.shape[1])
