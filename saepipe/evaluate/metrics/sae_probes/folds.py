"""Rows that choose a probe's penalty: all pairs, six folds, or the last fifth, by the number of training rows."""

from __future__ import annotations

import numpy as np

Fold = tuple[np.ndarray, np.ndarray]
"""Rows to fit and rows to validate on, int64."""

_MAX_PAIRS, _MIN_SINGLE = 12, 128
"""Training rows up to which all pairs are left out in turn, and from which one validation split is enough."""
_NUM_FOLDS = 6
_MAX_VALIDATION = 100


def folds(positive: np.ndarray, seed: int) -> list[Fold]:
    """Returns the folds of (num_rows,) training rows; those that validate on one class only are left out.

    The single split of 128 rows or more is taken as it is, whatever its classes.
    """
    from sklearn.model_selection import LeavePOut, StratifiedKFold

    num_rows = len(positive)
    if num_rows >= _MIN_SINGLE:
        num_fitted = num_rows - min(int(0.2 * num_rows), _MAX_VALIDATION)
        return [(np.arange(num_fitted), np.arange(num_fitted, num_rows))]
    few = num_rows <= _MAX_PAIRS
    splitter = LeavePOut(2) if few else StratifiedKFold(_NUM_FOLDS, shuffle=True, random_state=seed)
    return [fold for fold in splitter.split(positive, positive) if len(np.unique(positive[fold[1]])) == 2]
