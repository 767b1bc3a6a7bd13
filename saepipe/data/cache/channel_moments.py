"""Mean, standard deviation and largest magnitude per channel, merged over shards in float64."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Moments:
    """Moments of `count` rows. mean, square (mean squared deviation) and absmax are (d_in,) float64."""

    FIELDS: ClassVar[tuple[str, ...]] = ("mean", "square", "absmax")

    count: int
    mean: np.ndarray
    square: np.ndarray
    absmax: np.ndarray

    @classmethod
    def of(cls, bits: np.ndarray) -> Moments:
        """Moments of bfloat16 bits, (rows, d_in) uint16."""
        parts = (bits[start : start + _ROWS_AT_ONCE] for start in range(0, len(bits), _ROWS_AT_ONCE))
        return cls.merge(cls._of_part(part) for part in parts)

    @classmethod
    def _of_part(cls, bits: np.ndarray) -> Moments:
        import torch  # here, so that a cache is opened and described without it

        x = torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).float()
        mean = x.mean(0)
        # Centred first, so float32 sums of a few thousand terms are precise enough.
        square = (x - mean).square_().mean(0)
        return cls(len(bits), mean.double().numpy(), square.double().numpy(), x.abs().amax(0).double().numpy())

    @classmethod
    def merge(cls, parts: Iterable[Moments]) -> Moments:
        """Moments of all rows together, by Chan's pairwise update; bit-identical for the same order of `parts`."""
        rest = iter(parts)
        first = next(rest)
        for part in rest:
            count = first.count + part.count
            delta = part.mean - first.mean
            share = part.count / count
            square = first.square * (1 - share) + part.square * share + delta**2 * share * (1 - share)
            first = cls(count, first.mean + delta * share, square, np.maximum(first.absmax, part.absmax))
        return first

    @property
    def std(self) -> np.ndarray:
        return np.sqrt(self.square)

    def packed(self) -> np.ndarray:
        """(3, d_in) float64 in the order of FIELDS."""
        return np.stack([self.mean, self.square, self.absmax])

    @classmethod
    def unpacked(cls, packed: np.ndarray, count: int) -> Moments:
        return cls(count, *packed)
