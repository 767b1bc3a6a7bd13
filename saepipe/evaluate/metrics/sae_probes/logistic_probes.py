"""Logistic probes whose penalty is chosen by the AUC of validation rows."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
from threadpoolctl import threadpool_limits

from saepipe.evaluate.metrics.sae_probes.folds import folds
from saepipe.evaluate.stats.linear_probes import MIN_SIZE_FOR_THREADS

Penalty = Literal["l1", "l2"]

STRENGTHS = np.logspace(5, -5, 10)
"""Values of C, the inverse of the penalty's weight, weakest penalty first; the first of equal AUCs is taken."""
_MIN_TO_VALIDATE = 4
"""Training rows below which C is 1."""
_MAX_ITER = 1000


def fit_probe(x: np.ndarray, positive: np.ndarray, penalty: Penalty, seed: int) -> tuple[Any, float]:
    """Fits scikit-learn's logistic regression on all rows, with the C of the best mean AUC over the folds.

    Args:
        x: (num_rows, num_columns) float64.
        positive: (num_rows,) bool, with both values present.
        penalty: l1 (fitted by SAGA) or l2 (by L-BFGS).
        seed: seed of the folds, of SAGA and of the rows' order in the last fit.

    Returns:
        The fitted model, and its AUC on validation rows, or on the training rows if there are fewer than 4; NaN if the
        validation rows are of one class.
    """
    order = np.random.RandomState(seed).permutation(len(x))
    with _quiet(), threadpool_limits(None if x.size > MIN_SIZE_FOR_THREADS else 1):
        if len(x) < _MIN_TO_VALIDATE:
            model = _unfitted(1.0, penalty, seed).fit(x[order], positive[order])
            return model, _auc(model, x, positive)
        aucs = [_mean_auc(x, positive, C, penalty, seed) for C in STRENGTHS]
        model = _unfitted(STRENGTHS[int(np.argmax(aucs))], penalty, seed).fit(x[order], positive[order])
    return model, float(np.max(aucs))


def has_converged(model: Any) -> bool:
    """Returns whether the solver ended before its last iteration."""
    return int(model.n_iter_[0]) < _MAX_ITER


def _mean_auc(x: np.ndarray, positive: np.ndarray, C: float, penalty: Penalty, seed: int) -> float:
    aucs = []
    for fitted, validated in folds(positive, seed):
        if len(np.unique(positive[fitted])) == 2:
            model = _unfitted(C, penalty, seed).fit(x[fitted], positive[fitted])
            aucs.append(_auc(model, x[validated], positive[validated]))
        else:
            aucs.append(0.5)
    return float(np.mean(aucs))


def _unfitted(C: float, penalty: Penalty, seed: int) -> Any:
    from sklearn.linear_model import LogisticRegression

    settings = {"l1_ratio": 1, "solver": "saga"} if penalty == "l1" else {}
    return LogisticRegression(C=C, random_state=seed, max_iter=_MAX_ITER, **settings)


def _auc(model: Any, x: np.ndarray, positive: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(positive, model.predict_proba(x)[:, 1]))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences scikit-learn about fits that end at the last iteration, and AUCs of one class."""
    from sklearn.exceptions import ConvergenceWarning, UndefinedMetricWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        yield
