"""Logistic regression for many small probes: scikit-learn's objective and solver, without its checks of every input.

scikit-learn spends more time on checking and dispatch than on the iterations when a probe reads a few columns of some
hundred rows, and an evaluation fits hundreds of those for each SAE.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch.nn.functional import logsigmoid

_TOLERANCE, _LINE_SEARCHES = 1e-4, 50
"""Largest slope at which the fit ends, and steps of a line search: scikit-learn's."""


def fit_logistic(
    x: np.ndarray, y: np.ndarray, C: float = 1.0, *, balanced: bool = False, max_iter: int = 100
) -> tuple[np.ndarray, float]:
    """Fits L2-regularised logistic regression by L-BFGS, as `sklearn.linear_model.LogisticRegression` does.

    With weights s_i of the rows that sum to S, and signs t_i = 1 or -1, it minimises

        sum_i s_i log(1 + exp(-t_i (x_i . w + b))) / S + |w|^2 / (2 C S)

    Args:
        x: (num_rows, d).
        y: (num_rows,) bool, with both values present.
        C: inverse of the penalty's weight.
        balanced: whether rows are weighted so that both classes count the same.
        max_iter: iterations, at most.

    Returns:
        Weights (d,) float64, and the bias.
    """
    x = np.ascontiguousarray(x, np.float64)
    weight = np.where(y, len(y) / (2 * y.sum()), len(y) / (2 * (~y).sum())) if balanced else np.ones(len(y))
    share, decay, sign = weight / weight.sum(), 1 / (C * weight.sum()), np.where(y, 1.0, -1.0)

    def loss_and_gradient(params: np.ndarray) -> tuple[float, np.ndarray]:
        w = params[:-1]
        margin = torch.from_numpy(sign * (x @ w + params[-1]))  # torch's functions use vector instructions
        loss = -share @ logsigmoid(margin).numpy() + decay / 2 * (w @ w)
        slope = -sign * share * margin.neg().sigmoid().numpy()
        return float(loss), np.append(slope @ x + decay * w, slope.sum())

    options = {"maxiter": max_iter, "gtol": _TOLERANCE, "ftol": 64 * np.finfo(float).eps, "maxls": _LINE_SEARCHES}
    fitted = minimize(loss_and_gradient, np.zeros(x.shape[1] + 1), jac=True, method="L-BFGS-B", options=options).x
    return fitted[:-1], float(fitted[-1])
