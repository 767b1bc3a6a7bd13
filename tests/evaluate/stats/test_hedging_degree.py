"""The hedging degree on decoders whose movement is known."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from saepipe.evaluate.stats.hedging_degree import hedging_degree


def test_hedging_degree_is_zero_for_unchanged_latents() -> None:
    rows = normalize(torch.randn(30, 20, generator=torch.Generator().manual_seed(0)), dim=1)
    assert hedging_degree(rows[:20], rows) == 0


def test_hedging_degree_grows_with_the_movement_to_the_added_latents() -> None:
    rng = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(40, 40, generator=rng)).Q
    clean, added = basis[:20], basis[20:22]
    degrees = []
    for amount in (0.0, 0.2, 0.5):
        mixed = clean + amount * added[0]  # as a narrow SAE mixes it in
        degrees.append(hedging_degree(mixed, torch.cat([clean, added])))
    assert degrees[0] == 0
    assert degrees[1] < degrees[2]
    # By hand: every row loses 0.5 along an added direction and has length sqrt(1.25); two random directions of 40
    # contain about sqrt(2 / 40) * sqrt(pi / 4)... of that, so h_0 is small compared with h.
    h = 0.5 / 1.25**0.5
    assert degrees[2] == pytest.approx(h, abs=0.08)
    assert degrees[2] < h


def test_hedging_degree_ignores_movement_elsewhere() -> None:
    rng = torch.Generator().manual_seed(1)
    basis = torch.linalg.qr(torch.randn(40, 40, generator=rng)).Q
    moved = basis[:20] + 0.5 * basis[30]
    assert hedging_degree(moved, torch.cat([basis[:20], basis[20:22]])) == 0
