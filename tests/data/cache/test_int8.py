"""Arithmetic of the int8 profile, against float64 and brute force."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from helpers.made_caches import structured_rows
from saepipe.data.cache.channel_moments import Moments
from saepipe.data.cache.int8 import NUM_EXACT, Channels, QuantisedRows, Snr, quantise, reconstruct
from saepipe.data.errors import CorruptDataError

pytestmark = pytest.mark.quick


def to_bits(x: torch.Tensor) -> np.ndarray:
    return x.bfloat16().view(torch.int16).numpy().view(np.uint16)


def wide(bits: np.ndarray) -> np.ndarray:
    """Converts bfloat16 bits to float64."""
    return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16).double().numpy()


def gaussian(num_rows: int = 500, d_in: int = 100) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(num_rows, d_in, generator=generator) * 3 + torch.randn(d_in, generator=generator) * 5


def massive() -> torch.Tensor:
    """300 channels, of which three are 1,000 times as large as the others."""
    x = gaussian(500, 300)
    x[:, [7, 100, 251]] *= 1000
    return x


def heavy_tailed() -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_t(3, (500, 400)))


KINDS: list[Callable[[], torch.Tensor]] = [gaussian, massive, heavy_tailed, lambda: structured_rows(130, 24)]


def round_trip(bits: np.ndarray) -> tuple[QuantisedRows, Channels, np.ndarray]:
    channels = Channels.of(Moments.of(bits))
    stored, _ = quantise(bits, channels)
    out = np.empty_like(bits)
    reconstruct(stored, channels, out)
    return stored, channels, out


@pytest.mark.parametrize("kind", KINDS)
def test_no_error_exceeds_half_a_level(kind: Callable[[], torch.Tensor]) -> None:
    bits = to_bits(kind())
    x = wide(bits)
    stored, _, out = round_trip(bits)
    z = np.abs((x - x.mean(0)) / x.std(0))
    scale = np.sort(z, axis=1)[:, -NUM_EXACT - 1] / 127
    np.testing.assert_allclose(stored.scale, scale, rtol=1e-4)
    x_hat = wide(out)
    half_a_level = scale[:, None] * x.std(0) / 2
    assert np.abs(stored.q).max() == 127
    assert (np.abs(x - x_hat) <= half_a_level * 1.001 + np.abs(x_hat) * 2**-8 + 1e-6 * np.abs(x)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_largest_entries_are_bit_identical(kind: Callable[[], torch.Tensor]) -> None:
    bits = to_bits(kind())
    stored, channels, out = round_trip(bits)
    z = np.abs((wide(bits).astype(np.float32) - channels.mean) / channels.std)
    for row, index in enumerate(stored.outlier_index):
        assert (np.diff(index.astype(int)) > 0).all()
        assert z[row, index].min() >= np.delete(z[row], index).max()
        np.testing.assert_array_equal(stored.outlier_value[row], bits[row, index])
        np.testing.assert_array_equal(out[row, index], bits[row, index])


def test_ties_are_broken_by_channel_number() -> None:
    x = torch.ones(2, 40)
    x[1] = -1
    stored, _ = quantise(to_bits(x), Channels(np.zeros(40, np.float32), np.ones(40, np.float32)))
    np.testing.assert_array_equal(stored.outlier_index, np.tile(np.arange(40 - NUM_EXACT, 40), (2, 1)))


def test_massive_channels_do_not_ruin_the_ordinary_ones() -> None:
    """Int8 with only a scale per token ruins them, which the SNR of the ordinary channels reveals."""
    bits = to_bits(massive())
    x = wide(bits)
    moments = Moments.of(bits)
    _, noise = quantise(bits, Channels.of(moments))
    ours = Snr.of(moments, noise)
    step = np.abs(x).max(1, keepdims=True) / 127
    naive = Snr.of(moments, ((x - np.rint(x / step) * step) ** 2).sum(0))
    assert ours.num_massive == 3
    assert ours.ordinary is not None
    assert naive.total is not None
    assert naive.ordinary is not None
    assert ours.ordinary > 40
    assert ours.reaches(30)
    assert naive.total > 30  # the total alone would pass
    assert naive.ordinary < 5
    assert not naive.reaches(30)


def test_snr_matches_its_formula() -> None:
    bits = to_bits(massive())
    x, (_, channels, out) = wide(bits), round_trip(bits)
    _, noise = quantise(bits, channels)
    lost = (x - wide(out)) ** 2
    np.testing.assert_allclose(noise, lost.sum(0), rtol=1e-6)
    snr = Snr.of(Moments.of(bits), noise)
    ordinary = np.delete(np.arange(300), [7, 100, 251])
    for value, channel in ((snr.total, np.arange(300)), (snr.ordinary, ordinary)):
        signal = (x - x.mean(0))[:, channel] ** 2
        assert value == pytest.approx(10 * np.log10(signal.sum() / lost[:, channel].sum()), abs=2e-3)


def test_a_channel_that_is_constant_in_the_first_shard_may_vary_later() -> None:
    x = gaussian(600, 60)
    x[:300, 3], x[:300, 4], x[300:, 3] = 0, 100, 0.5
    bits = to_bits(x)
    channels = Channels.of(Moments.of(bits[:300]))
    others = np.delete(wide(bits[:300]).std(0), [3, 4])
    np.testing.assert_allclose(channels.std[[3, 4]], np.median(others), rtol=1e-5)
    stored, _ = quantise(bits, channels)
    out = np.empty_like(bits)
    reconstruct(stored, channels, out)
    assert (wide(out)[:300, 3] == 0).all()
    assert (wide(out)[:300, 4] == 100).all()
    assert np.abs(wide(out)[300:, 3] - 0.5).max() < stored.scale.max() * np.median(others)


def test_equal_rows_lose_nothing() -> None:
    bits = to_bits(gaussian(1, 50)).repeat(70, axis=0)
    _, channels, out = round_trip(bits)
    np.testing.assert_array_equal(out, bits)
    moments = Moments.of(bits)
    snr = Snr.of(moments, quantise(bits, channels)[1])
    assert snr.total is None
    assert snr.reaches(1000)
    assert "lossless" in str(snr)


@pytest.mark.parametrize(("d_in", "dtype"), [(17, np.uint16), (1 << 16, np.uint16), (70_001, np.uint32)])
def test_unusual_widths(d_in: int, dtype: type) -> None:
    bits = to_bits(gaussian(5, d_in))
    channels = Channels(np.zeros(d_in, np.float32), np.full(d_in, 3, np.float32))
    stored, _ = quantise(bits, channels)
    out = np.empty_like(bits)
    reconstruct(stored, channels, out)
    assert stored.outlier_index.dtype == dtype
    for row in range(5):
        expected = np.sort(np.argsort(np.abs(wide(bits)[row]), kind="stable")[-NUM_EXACT:])
        np.testing.assert_array_equal(stored.outlier_index[row], expected)
    assert np.abs(wide(out) - wide(bits)).max() < stored.scale.max() * 3


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    x = gaussian()
    channels = Channels.of(Moments.of(to_bits(x)))
    x[77, 5] = value
    with pytest.raises(CorruptDataError, match="NaN or Inf"):
        quantise(to_bits(x), channels)
