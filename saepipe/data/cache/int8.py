"""The int8 profile: rows centred per channel and scaled per token, one byte per channel, the largest entries exact.

    z = (x - mean) / std;  scale = max |z| / 127;  q = round(z / scale);  x_hat = mean + std * (scale * q)

mean and std are per channel, taken over the first shard and frozen before any row is quantised. The maximum is over
the token's channels without the NUM_EXACT largest |z|, which are stored unchanged beside q. Without centring and a
scale per channel, a few massive channels would set every token's scale and leave the ordinary channels no bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from saepipe.data.cache.channel_moments import Moments
from saepipe.data.errors import CorruptDataError

NUM_EXACT = 16
"""Entries per token that are kept exact. With tails as heavy as Student's t with 3 degrees of freedom, they raise the
signal-to-noise ratio from 30 dB to 41 dB."""

LEVELS = 127
_ROWS_AT_ONCE = 64
_MAX_SERIAL_SIZE = 32_767
"""Largest number of elements for which torch starts no threads of its own, which it would do in each decoder."""
_MIN_RELATIVE_STD = 1e-6
"""A channel whose std is a smaller share of its mean than this is constant: bfloat16 cannot vary by so little."""


@dataclass(frozen=True)
class Channels:
    """mean and std, (d_in,) float32; std is positive."""

    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, moments: Moments) -> Self:
        """Gives constant channels the median std of the others, because they may vary in later rows."""
        constant = moments.std <= _MIN_RELATIVE_STD * np.abs(moments.mean)
        std = np.where(constant, np.median(moments.std[~constant]) if not constant.all() else 1.0, moments.std)
        return cls(moments.mean.astype(np.float32), np.maximum(std.astype(np.float32), np.finfo(np.float32).tiny))


@dataclass(frozen=True)
class QuantisedRows:
    """The stored form of some rows.

    q: (rows, d_in) int8; entries that are kept exact are clipped here.
    scale: (rows,) float32.
    outlier_index: (rows, NUM_EXACT) uint16 or uint32, ascending in each row.
    outlier_value: (rows, NUM_EXACT) uint16, bfloat16 bits.
    """

    q: np.ndarray
    scale: np.ndarray
    outlier_index: np.ndarray
    outlier_value: np.ndarray

    @property
    def parts(self) -> tuple[np.ndarray, ...]:
        return self.q, self.scale, self.outlier_index, self.outlier_value

    @classmethod
    def empty(cls, num_rows: int, d_in: int) -> Self:
        exact = (num_rows, NUM_EXACT)
        index = np.empty(exact, index_dtype(d_in))
        return cls(
            np.empty((num_rows, d_in), np.int8), np.empty(num_rows, np.float32), index, np.empty(exact, "uint16")
        )

    def slice(self, start: int, stop: int) -> QuantisedRows:
        """Views of rows [start, stop)."""
        return QuantisedRows(*(part[start:stop] for part in self.parts))


def index_dtype(d_in: int) -> str:
    return "uint16" if d_in <= 1 << 16 else "uint32"


def quantise(bits: np.ndarray, channels: Channels) -> tuple[QuantisedRows, np.ndarray]:
    """Quantises bfloat16 bits, (rows, d_in) uint16.

    Returns:
        The rows to store, and their error sum (x - x_hat)^2 over rows, (d_in,) float64.

    Raises:
        CorruptDataError: if a value is NaN or Inf.
    """
    num_rows, d_in = bits.shape
    stored, noise = QuantisedRows.empty(num_rows, d_in), np.zeros(d_in)
    for start in range(0, num_rows, _ROWS_AT_ONCE):
        part, into = bits[start : start + _ROWS_AT_ONCE], stored.slice(start, start + _ROWS_AT_ONCE)
        x = _float32(part)
        _quantise_into(part, (x - channels.mean) / channels.std, into)
        x_hat = np.empty_like(part)
        reconstruct(into, channels, x_hat)
        noise += np.square(x - _float32(x_hat), dtype=np.float64).sum(0)
    return stored, noise


def _quantise_into(bits: np.ndarray, z: np.ndarray, into: QuantisedRows) -> None:
    d_in = z.shape[1]
    # One integer holds |z| in its high bits and the channel in its low ones: a single partition finds the largest, and
    # ties break the same way on every machine. Positive floats sort like their bits, with Inf and NaN above all.
    keys = (z.view(np.int32) & 0x7FFF_FFFF).astype(np.int64)
    keys = np.partition((keys << 32) | np.arange(d_in), d_in - NUM_EXACT - 1, axis=1)[:, d_in - NUM_EXACT - 1 :]
    largest = (keys >> 32).astype(np.int32).view(np.float32)
    if not np.isfinite(largest).all():
        raise CorruptDataError("an activation is NaN or Inf, or too large for its channel's mean and std")
    into.outlier_index[:] = np.sort(keys[:, 1:] & 0xFFFF_FFFF, axis=1)
    into.outlier_value[:] = np.take_along_axis(bits, into.outlier_index.astype(np.int64), axis=1)
    into.scale[:] = largest[:, 0] / LEVELS
    scale = np.where(into.scale > 0, into.scale, 1)[:, None]
    np.clip(np.rint(z / scale), -LEVELS, LEVELS, out=into.q, casting="unsafe")


def reconstruct(stored: QuantisedRows, channels: Channels, out: np.ndarray) -> None:
    """Writes the rows as bfloat16 bits into `out`, (rows, d_in) uint16, C-contiguous. Uses only the calling thread.

    Each operation is rounded separately, as in the formula, so any reader gets the same bits.
    """
    import torch  # here, so that a cache is opened and described without it

    assert out.flags.c_contiguous
    num_rows, d_in = stored.q.shape
    size = max(1, _MAX_SERIAL_SIZE // d_in)
    block = np.empty((size, d_in), np.float32)
    x, into = torch.from_numpy(block), torch.from_numpy(out.view(np.int16)).view(torch.bfloat16)
    mean, std = torch.from_numpy(channels.mean), torch.from_numpy(channels.std)
    for start in range(0, num_rows, size):
        stop = min(start + size, num_rows)
        np.multiply(stored.q[start:stop], stored.scale[start:stop, None], out=block[: stop - start])
        into[start:stop].copy_(x[: stop - start].mul_(std).add_(mean))
    flat_index = stored.outlier_index + np.arange(0, num_rows * d_in, d_in)[:, None]
    out.reshape(-1)[flat_index] = stored.outlier_value


def _float32(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


@dataclass(frozen=True)
class Snr:
    """Signal-to-noise ratio, 10 log10(sum |x - mean|^2 / sum |x - x_hat|^2) in dB; None if nothing was lost.

    `ordinary` leaves out the `num_massive` channels with the largest std. If a residual stream has massive channels,
    they carry nearly all of the signal, so the total looks good even when all other channels are ruined.
    """

    total: float | None
    ordinary: float | None
    num_massive: int

    @classmethod
    def of(cls, moments: Moments, noise: np.ndarray) -> Self:
        """Computes the SNR from the `moments` of the original rows and their noise (d_in,), sum (x - x_hat)^2."""
        num_massive = math.ceil(len(noise) / 100)
        ordinary = np.argsort(moments.square, kind="stable")[:-num_massive]
        signal = moments.square * moments.count
        return cls(_decibels(signal, noise), _decibels(signal[ordinary], noise[ordinary]), num_massive)

    def reaches(self, floor: float) -> bool:
        return self.ordinary is None or self.ordinary >= floor

    def __str__(self) -> str:
        massive = f"the {self.num_massive} largest channels" if self.num_massive > 1 else "the largest channel"
        total, ordinary = _format(self.total), _format(self.ordinary)
        return f"SNR {total} in all channels, {ordinary} in the ordinary ones (without {massive})"


def _decibels(signal: np.ndarray, noise: np.ndarray) -> float | None:
    total_noise, total_signal = float(noise.sum()), float(signal.sum())
    if not total_noise:
        return None
    return round(10 * math.log10(max(total_signal, np.finfo(float).tiny) / total_noise), 3)


def _format(decibels: float | None) -> str:
    return "lossless" if decibels is None else f"{decibels:.1f} dB"
