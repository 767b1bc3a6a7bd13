"""Changes between hand-made portraits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saepipe.evaluate.metrics.geometry.baseline_change import changes, track_pairs
from saepipe.evaluate.metrics.geometry.joint_firing import PairCounts
from saepipe.evaluate.metrics.geometry.portrait import Portrait
from saepipe.evaluate.metrics.geometry.weights import Weights
from saepipe.evaluate.stats.decoder_cosines import similarity
from saepipe.evaluate.stats.histograms import COSINE, Histogram

pytestmark = pytest.mark.quick


def weights_of(W_dec: torch.Tensor, num_pairs: int = 3) -> Weights:
    similar = similarity(W_dec, num_pairs)
    ones = np.ones(len(W_dec))
    histogram = Histogram(COSINE, similar.counts.tolist())
    return Weights(W_dec, ones, ones, similar.max_cosine.numpy(), similar.nearest.numpy(), histogram, similar.pairs)


def counts_of(i: list[int], j: list[int], both: list[int]) -> PairCounts:
    """Returns counts in one document of 100 tokens."""
    return PairCounts(*(np.array([column], dtype=float) for column in (i, j, both)), np.array([100.0]))


def angled(*degrees: float) -> torch.Tensor:
    """Returns rows in a plane, (num, 4)."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin(), 0 * angle, 0 * angle], dim=1).float()


def test_a_pair_is_tracked_and_keeps_its_parent_from_the_baseline() -> None:
    """The first latent is active more often in the baseline, the second here: 0.9 of 10 against 0.5 of 30 tokens."""
    old, new = weights_of(angled(0, 30), 1), weights_of(angled(45, 5), 1)
    tracked = track_pairs(new, old)
    assert (tracked.pairs.i.tolist(), tracked.pairs.j.tolist()) == ([1], [0])
    old_portrait = Portrait(old, np.array([0.2, 0.1]), counts_of([20], [10], [9]), 0.0)
    new_portrait = Portrait(new, np.array([0.3, 0.1]), counts_of([30], [10], [5]), 0.0)
    estimates = changes(new_portrait, old_portrait, tracked, counts_of([10], [30], [5]))
    assert estimates["change_pair_conditional"].value == pytest.approx(5 / 30 - 9 / 10)  # P(first | second) in both
    assert estimates["change_pair_lift"].value == pytest.approx(5 * 100 / 300 - 9 * 100 / 200)
    assert estimates["change_pair_cosine"].value == pytest.approx(np.cos(np.deg2rad(40)) - np.cos(np.deg2rad(30)))
    assert estimates["frac_baseline_pairs_found"].value == 1


def test_a_row_turned_too_far_is_another_latent() -> None:
    """The third row is turned by 60 degrees; the fourth latent is never active in the baseline."""
    rows = torch.cat([angled(0, 30), torch.eye(4)[2:]])
    turned = rows.clone()
    turned[2] = 0.5 * rows[2] - 0.75**0.5 * rows[0]
    old, new = weights_of(rows, 6), weights_of(turned, 6)
    tracked = track_pairs(new, old)
    assert len(tracked.match.ours) == 4
    ends = zip(tracked.pairs.i.tolist(), tracked.pairs.j.tolist(), strict=True)
    assert sorted(ends) == [(0, 1), (0, 3), (1, 3)]
    uniform = [[1] * 6] * 3
    old_portrait = Portrait(old, np.array([0.1, 0.1, 0.1, 0.0]), counts_of(*uniform), 0.0)
    new_portrait = Portrait(new, np.array([0.1, 0.01, 0.1, 0.1]), counts_of(*uniform), 0.0)
    estimates = changes(new_portrait, old_portrait, tracked, counts_of([1] * 3, [1] * 3, [1] * 3))
    assert estimates["mean_matched_cosine"].value == pytest.approx((1 + 1 + 0.5) / 3)
    assert estimates["frac_matched_over_70"].value == 2 / 4
    assert estimates["frac_baseline_matched_over_70"].value == 2 / 3
    assert estimates["change_log10_density"].value == pytest.approx(-0.5)
    assert estimates["frac_baseline_pairs_found"].value == 0.5
