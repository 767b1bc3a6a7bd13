"""The counterpart of a latent in another run: the latent whose decoder row points most nearly the same way."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

_BLOCK = 256


@dataclass(frozen=True)
class Match:
    latent: int
    """Of the other run."""
    cosine: float
    """Of the two decoder rows."""


def nearest(row: np.ndarray, others: np.ndarray) -> Match | None:
    """The match of one unit row (d_in,) among unit rows (d_sae, d_in); None for a row of zeros, which has none."""
    if not row.any():
        return None
    return _match(row, others, int(np.argmax(others @ row)))


def nearest_of_all(rows: np.ndarray, others: np.ndarray) -> Iterator[Match | None]:
    """What `nearest` says of each of `rows` (num, d_in), in order, by blocks of them."""
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        for row, latent in zip(block, np.argmax(block @ others.T, axis=1), strict=True):
            yield _match(row, others, int(latent)) if row.any() else None


def _match(row: np.ndarray, others: np.ndarray, latent: int) -> Match:
    """One product in float64, so that both ways of looking give the same digits."""
    return Match(latent, float(np.dot(row.astype(np.float64), others[latent].astype(np.float64))))
