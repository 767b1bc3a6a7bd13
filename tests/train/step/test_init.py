from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from saepipe.train.step.init import center, geometric_median

pytestmark = pytest.mark.quick


def test_the_geometric_median_has_the_least_sum_of_distances() -> None:
    rows = torch.randn(101, 3, generator=torch.Generator().manual_seed(0)).exp()
    points = rows.double().numpy()
    best = minimize(lambda p: np.linalg.norm(points - p, axis=1).sum(), points.mean(0), tol=1e-12)
    assert geometric_median(rows).numpy() == pytest.approx(best.x, abs=1e-4)


def test_a_few_outliers_do_not_move_the_geometric_median() -> None:
    rows = torch.randn(1000, 24, generator=torch.Generator().manual_seed(0))
    rows[:10] = 1e4
    assert geometric_median(rows).norm() < 1
    assert rows.mean(0).norm() > 100


def test_the_geometric_median_may_be_one_of_the_rows() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    assert geometric_median(rows).tolist() == pytest.approx([0, 0], abs=1e-4)


def test_the_mean_and_zeros() -> None:
    rows = torch.arange(6.0).view(3, 2)
    assert center(rows, "mean").tolist() == [2, 3]
    assert center(rows, "zeros").tolist() == [0, 0]
