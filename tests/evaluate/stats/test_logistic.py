"""The logistic regression of small probes against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from saepipe.evaluate.stats.logistic import fit_logistic

pytestmark = pytest.mark.quick


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize(("num_rows", "d", "C"), [(300, 1, 1.0), (200, 12, 0.1), (60, 90, 10.0)])
def test_fits_are_those_of_scikit_learn(num_rows: int, d: int, C: float, balanced: bool) -> None:
    rng = np.random.default_rng(0)
    x = np.maximum(rng.normal(size=(num_rows, d)), 0)
    y = x[:, 0] + 0.7 * rng.normal(size=num_rows) > 1
    weight, bias = fit_logistic(x, y, C, balanced=balanced)
    model = LogisticRegression(C=C, class_weight="balanced" if balanced else None).fit(x, y)
    np.testing.assert_allclose(weight, model.coef_[0], rtol=0, atol=1e-9)
    assert bias == pytest.approx(float(model.intercept_[0]), abs=1e-9)


def test_iterations_are_limited() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 5))
    y = x[:, 0] > 0
    few, many = (fit_logistic(x, y, 1e6, max_iter=number)[0] for number in (2, 200))
    assert np.linalg.norm(few) < 0.5 * np.linalg.norm(many)
