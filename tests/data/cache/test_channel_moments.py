"""Statistics of the stored rows against numpy in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.made_caches import structured_rows
from saepipe.data.cache.cache import Cache
from saepipe.data.cache.channel_moments import Moments

pytestmark = pytest.mark.quick


def test_cache_statistics_cover_all_rows(tiny_cache: Path) -> None:
    x = structured_rows(8200, 24).double().numpy()
    stats = Cache.open(tiny_cache).stats("blocks.1.hook_resid_post")
    np.testing.assert_allclose(stats.mean, x.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(stats.std, x.std(0), rtol=1e-5)
    np.testing.assert_allclose(stats.absmax, np.abs(x).max(0), rtol=1e-7)
    np.testing.assert_allclose(stats.mean_square_norm, (x**2).sum(1).mean(), rtol=1e-6)


def test_a_large_mean_does_not_spoil_the_deviation() -> None:
    x = (structured_rows(10_000, 8).float() * 0.01 + 100).bfloat16()
    moments = Moments.of(x.view(__import__("torch").int16).numpy().view(np.uint16))
    np.testing.assert_allclose(moments.std, x.double().numpy().std(0), rtol=1e-4)
