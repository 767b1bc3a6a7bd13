"""Counterpart of a latent in another run: the latent whose decoder row has the highest cosine with its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_BLOCK = 256


@dataclass(frozen=True)
class Match:
    latent: int
    """Latent of the other run."""
    cosine: float
    """Cosine of the two decoder rows."""


def nearest(row: np.ndarray, others: np.ndarray) -> Match | None:
    """Returns the match of a unit row (d_in,) among unit rows (d_sae, d_in); None for a row of zeros."""
    if not row.any():
        return None
    return _match(row, others, int(np.argmax(others @ row)))


def nearest_of_each(rows: np.ndarray, others: np.ndarray) -> Iterator[Match | None]:
    """Yields the result of `nearest` for each of `rows` (num_rows, d_in), computed in blocks."""
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        for row, latent in zip(block, np.argmax(block @ others.T, axis=1), strict=True):
            yield _match(row, others, int(latent)) if row.any() else None


def cosine(row: np.ndarray, other: np.ndarray) -> float:
    """Returns the cosine of two unit rows, by one product in float64: single rows and blocks give the same digits."""
    return float(np.dot(row.astype(np.float64), other.astype(np.float64)))


def _match(row: np.ndarray, others: np.ndarray, latent: int) -> Match:
    return Match(latent, cosine(row, others[latent]))
