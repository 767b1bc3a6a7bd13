"""Rewrites of an SAE's parameters that keep its function."""

from __future__ import annotations

import pytest
import torch

from helpers.other_libraries import D_IN, D_SAE, randn
from saepipe.train.formats.rewrites import b_dec_left_in, b_dec_subtracted
from saepipe.train.sae.gated import Gated

pytestmark = pytest.mark.quick


def test_subtracting_b_dec_and_leaving_it_in_are_inverse() -> None:
    """Also for a gated SAE, whose magnitude is shifted by exp(r_mag) times as much."""
    sae, rng = Gated(d_sae=D_SAE), torch.Generator().manual_seed(1)
    params = {name: torch.randn(value.shape, generator=rng) for name, value in sae.init(D_IN, 1, rng).items()}
    params["W_enc"] *= 0.2
    left_in = b_dec_left_in(params)
    for name, value in b_dec_subtracted(left_in).items():
        torch.testing.assert_close(value, params[name], rtol=1e-6, atol=1e-6)
    x = randn(100, D_IN, seed=4)
    zero = left_in | {"b_dec": torch.zeros(D_IN)}
    torch.testing.assert_close(sae.encode(zero, x), sae.encode(params, x), rtol=1e-4, atol=1e-4)


def test_the_shift_is_exact_in_float64() -> None:
    """With a long b_dec, float32 sums would lose small terms."""
    params = {"W_enc": randn(512, 30, seed=1), "b_enc": randn(30, seed=2), "b_dec": randn(512, seed=3, scale=1e3)}
    expected = params["b_enc"].double() + params["b_dec"].double() @ params["W_enc"].double()
    assert torch.equal(b_dec_subtracted(params)["b_enc"], expected.float())
