"""Changes between portraits made by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saepipe.evaluate.metrics.geometry.baseline_change import changes, follow
from saepipe.evaluate.metrics.geometry.joint_firing import PairCounts
from saepipe.evaluate.metrics.geometry.portrait import Portrait
from saepipe.evaluate.metrics.geometry.weights import Weights
from saepipe.evaluate.stats.decoder_cosines import similarity
from saepipe.evaluate.stats.histograms import COSINE, Histogram


def weights_of(W_dec: torch.Tensor, num_pairs: int = 3) -> Weights:
    found = similarity(W_dec, num_pairs)
    ones = np.ones(len(W_dec))
    histogram = Histogram(COSINE, found.counts.tolist())
    return Weights(W_dec, ones, ones, found.max_cosine.numpy(), found.nearest.numpy(), histogram, found.pairs)


def counts_of(i: list[int], j: list[int], both: list[int]) -> PairCounts:
    """All in one document of 100 tokens."""
    return PairCounts(*(np.array([column], dtype=float) for column in (i, j, both)), np.array([100.0]))


def angled(*degrees: float) -> torch.Tensor:
    """Rows in a plane, (num, 4)."""
    angle = torch.tensor(degrees, dtype=torch.float64).deg2rad()
    return torch.stack([angle.cos(), angle.sin(), 0 * angle, 0 * angle], dim=1).float()


def test_a_pair_is_followed_and_its_parent_is_the_baselines() -> None:
    """In the baseline the first latent fires more often, here the second: 0.9 of 10 against 0.5 of 30 tokens."""
    before, now = weights_of(angled(0, 30), 1), weights_of(angled(45, 5), 1)
    followed = follow(now, before)
    assert (followed.pairs.i.tolist(), followed.pairs.j.tolist()) == ([1], [0])
    then = Portrait(before, np.array([0.2, 0.1]), counts_of([20], [10], [9]))
    later = Portrait(now, np.array([0.3, 0.1]), counts_of([30], [10], [5]))
    found = changes(later, then, followed, counts_of([10], [30], [5]))
    assert found["change_pair_conditional"].value == pytest.approx(5 / 30 - 9 / 10)  # P(first | second) in both
    assert found["change_pair_lift"].value == pytest.approx(5 * 100 / 300 - 9 * 100 / 200)
    assert found["change_pair_cosine"].value == pytest.approx(np.cos(np.deg2rad(40)) - np.cos(np.deg2rad(30)))
    assert found["frac_baseline_pairs_found"].value == 1


def test_what_has_turned_too_far_is_another_latent() -> None:
    """The third one turned by 60 degrees, the fourth does not fire in the baseline."""
    rows = torch.cat([angled(0, 30), torch.eye(4)[2:]])
    turned = rows.clone()
    turned[2] = 0.5 * rows[2] - 0.75**0.5 * rows[0]
    before, now = weights_of(rows, 6), weights_of(turned, 6)
    followed = follow(now, before)
    assert len(followed.match.ours) == 4
    ends = zip(followed.pairs.i.tolist(), followed.pairs.j.tolist(), strict=True)
    assert sorted(ends) == [(0, 1), (0, 3), (1, 3)]
    silent = [[1] * 6] * 3
    then = Portrait(before, np.array([0.1, 0.1, 0.1, 0.0]), counts_of(*silent))
    later = Portrait(now, np.array([0.1, 0.01, 0.1, 0.1]), counts_of(*silent))
    found = changes(later, then, followed, counts_of([1] * 3, [1] * 3, [1] * 3))
    assert found["mean_matched_cosine"].value == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["frac_matched_over_70"].value == 2 / 4
    assert found["frac_baseline_matched_over_70"].value == 2 / 3
    assert found["change_log10_density"].value == pytest.approx(-0.5)
    assert found["frac_baseline_pairs_found"].value == 0.5
