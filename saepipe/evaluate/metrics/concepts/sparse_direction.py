"""Sparse probe directions: logistic regression with an L1 penalty."""

from __future__ import annotations

import torch
from torch import Tensor

from saepipe.evaluate.stats.linear_probes import Probe, Scaling

STRENGTHS = (0.01, 0.05, 0.2, 1.0)
"""Values of C, the inverse of the penalty's weight, that validation chooses from."""

_INTERCEPT_SCALING = 10.0
"""liblinear penalises the intercept too, by this factor less than a weight."""


def fit_sparse(x: Tensor, y: Tensor, num_validation: int) -> Probe:
    """Fits a probe on raw inputs: the minimum of C sum log loss + sum |weight| on standardised inputs.

    Fits all rows with the C of the lowest log loss on the last ones when fitted on the others. The result is the same
    from any start and as good as the rows allow, even if few; the reference's is whatever twenty epochs reach.

    Args:
        x: (num_rows, d), in random order.
        y: (num_rows,) bool.
        num_validation: number of last rows to validate on; both classes must be among them.
    """
    from sklearn.metrics import log_loss

    scaling = Scaling.of(x)
    rows, fitted, held_out = scaling(x), slice(len(x) - num_validation), slice(len(x) - num_validation, None)

    def loss(C: float) -> float:
        probability = torch.sigmoid(_fit(rows[fitted], y[fitted], C).logits(rows[held_out]))
        return float(log_loss(y[held_out].numpy(), probability.numpy(), labels=[False, True]))

    best = _fit(rows, y, min(STRENGTHS, key=loss))
    weight = best.weight * scaling.scale
    return Probe(weight, best.bias - float(scaling.mean @ weight))


def _fit(x: Tensor, y: Tensor, C: float) -> Probe:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(
        C=C, l1_ratio=1.0, solver="liblinear", tol=1e-3, intercept_scaling=_INTERCEPT_SCALING, random_state=0
    )
    model.fit(x.numpy(), y.numpy())
    return Probe(torch.from_numpy(model.coef_[0]).double(), float(model.intercept_[0]))
