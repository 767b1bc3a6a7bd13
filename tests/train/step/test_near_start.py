"""The cone around a decoder row's start."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from saepipe.train.step.near_start import keep_near_start

pytestmark = pytest.mark.quick


def test_rows_turn_back_to_the_nearest_direction_of_the_cone() -> None:
    """On the sphere that is on the way from the row to its start: the angles add up."""
    rng = torch.Generator().manual_seed(0)
    start = normalize(torch.randn(2, 50, 8, generator=rng, dtype=torch.float64), dim=-1)
    rows = normalize(start + torch.randn(2, 50, 8, generator=rng, dtype=torch.float64) * 0.6, dim=-1)
    turned = rows.clone()
    keep_near_start(turned, start, 0.8)
    angle = lambda a, b: torch.acos((a * b).sum(-1).clamp(-1, 1))  # noqa: E731
    widest = torch.acos(torch.tensor(0.8, dtype=torch.float64))
    inside = angle(rows, start) <= widest
    assert 10 < inside.sum() < 90
    assert torch.equal(turned[inside], rows[inside])
    torch.testing.assert_close(angle(turned, start)[~inside], widest.expand(int((~inside).sum())))
    torch.testing.assert_close((angle(rows, turned) + angle(turned, start))[~inside], angle(rows, start)[~inside])
    torch.testing.assert_close(turned.norm(dim=-1), torch.ones(2, 50, dtype=torch.float64))
