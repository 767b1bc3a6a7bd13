"""Probes against the penalised likelihood itself, and the choice of their penalty."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import mannwhitneyu

from saepipe.evaluate.metrics.sae_probes import logistic_probes
from saepipe.evaluate.metrics.sae_probes.logistic_probes import STRENGTHS, fit_probe


def rows(num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    positive = np.arange(num_rows) % 2 == 0
    return rng.normal(size=(num_rows, 3)) + 0.8 * positive[:, None] * [1, 0.3, 0], positive


def minimum(x: np.ndarray, positive: np.ndarray, C: float, power: int) -> np.ndarray:
    """Minimises C sum log(1 + exp(-t (x . w + b))) + penalty; each weight of l1 is a difference of two parts >= 0."""
    sign = np.where(positive, 1.0, -1.0)
    num_columns = x.shape[1]

    def weight(params: np.ndarray) -> np.ndarray:
        return params[:num_columns] - params[num_columns:-1]

    def loss(params: np.ndarray) -> float:
        penalty = params[:-1].sum() if power == 1 else (weight(params) ** 2).sum() / 2
        return C * np.logaddexp(0, -sign * (x @ weight(params) + params[-1])).sum() + penalty

    bounds = [(0, None)] * 2 * num_columns + [(None, None)]
    fitted = minimize(loss, np.zeros(2 * num_columns + 1), bounds=bounds, options={"ftol": 1e-14, "gtol": 1e-10}).x
    return np.append(weight(fitted), fitted[-1])


def auc(model: np.ndarray, x: np.ndarray, positive: np.ndarray) -> float:
    """Returns the share of pairs that are in the right order, from Mann and Whitney's U."""
    logits = x @ model[:-1] + model[-1]
    pairs = positive.sum() * (~positive).sum()
    return float(mannwhitneyu(logits[positive], logits[~positive]).statistic / pairs)


@pytest.mark.parametrize(("penalty", "power"), [("l1", 1), ("l2", 2)])
def test_a_probe_minimises_its_penalised_likelihood(penalty: logistic_probes.Penalty, power: int) -> None:
    """From 128 rows on, the last fifth, at most 100, chooses C; among equal AUCs the weakest penalty wins."""
    x, positive = rows(140)
    aucs = [auc(minimum(x[:112], positive[:112], C, power), x[112:], positive[112:]) for C in STRENGTHS]
    model, val_auc = fit_probe(x, positive, penalty, 42)
    assert val_auc == pytest.approx(max(aucs), abs=1e-3)
    assert STRENGTHS[int(np.argmax(aucs))] == model.C
    expected = minimum(x, positive, model.C, power)
    np.testing.assert_allclose(np.append(model.coef_[0], model.intercept_), expected, atol=5e-3)


def test_strengths_are_those_of_the_package() -> None:
    assert STRENGTHS[0] == pytest.approx(1e5)
    assert STRENGTHS[-1] == pytest.approx(1e-5)
    assert len(STRENGTHS) == 10
    np.testing.assert_allclose(STRENGTHS[:-1] / STRENGTHS[1:], 10 ** (10 / 9))


def test_two_rows_are_fitted_without_a_choice() -> None:
    model, val_auc = fit_probe(np.array([[0.0], [1.0]]), np.array([False, True]), "l2", 42)
    assert model.C == 1
    assert val_auc == 1


def test_validation_rows_of_one_class_give_no_auc() -> None:
    x, _ = rows(130)
    positive = np.arange(130) < 100
    model, val_auc = fit_probe(x, positive, "l2", 42)
    assert np.isnan(val_auc)
    assert STRENGTHS[0] == model.C
