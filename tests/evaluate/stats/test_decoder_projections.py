"""The n-th decoder projection against sorted projections, as the paper defines it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saepipe.evaluate.stats import decoder_projections
from saepipe.evaluate.stats.decoder_projections import nth_decoder_projection

pytestmark = pytest.mark.quick


def sorted_value(x: np.ndarray, W_dec: np.ndarray, n: int) -> float:
    """Returns the value at index n * batch of all projections on unit rows, the largest first."""
    projections = x @ (W_dec / np.linalg.norm(W_dec, axis=1, keepdims=True)).T
    return np.sort(projections.ravel())[::-1][n * len(x)]


@pytest.mark.parametrize("batch", [5, 256])
def test_against_sorted_projections(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows have any norm; a row of zeros has no direction and is not counted: n is 6 of 16, not of 17."""
    monkeypatch.setattr(decoder_projections, "_BATCH", batch)
    rng = torch.Generator().manual_seed(0)
    x, W_dec = torch.randn(12, 4, generator=rng), 3 * torch.randn(16, 4, generator=rng)
    value = nth_decoder_projection(x, torch.cat([W_dec, torch.zeros(1, 4)]))
    batches = np.split(x.numpy(), [5, 10]) if batch == 5 else [x.numpy()]
    values = [sorted_value(rows, W_dec.numpy(), 6) for rows in batches]
    assert value == pytest.approx(np.average(values, weights=[len(rows) for rows in batches]), abs=1e-6)


def test_mixed_rows_project_more_than_clean_ones() -> None:
    """Each token is one of 16 orthogonal features; a row with a part of feature 0 projects on its tokens too."""
    x, clean = torch.eye(16).repeat(8, 1), torch.eye(16)
    x[:, 0] += 1
    mixed = clean.clone()
    mixed[1:, 0] = 0.3
    assert nth_decoder_projection(x, clean) == 0
    assert nth_decoder_projection(x, mixed) == pytest.approx(0.3 / 1.09**0.5)


def test_no_row_has_a_direction() -> None:
    assert nth_decoder_projection(torch.ones(3, 4), torch.zeros(5, 4)) is None
