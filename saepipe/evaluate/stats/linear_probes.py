"""Linear probes: fitted by scikit-learn, or trained step by step as in the reference (SAEBench 0.6.0)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Self

import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from saepipe.evaluate.stats.logistic import fit_logistic

STRENGTHS = (1e-3, 1e-2, 1e-1)
"""Values of C, the inverse of the L2 penalty's weight, that validation chooses from."""

MIN_SIZE_FOR_THREADS = 2**22
"""Size of x below which extra threads only wait for each other, above all on a busy machine."""


@dataclass(frozen=True)
class Probe:
    """A linear classifier: True if x . weight + bias > 0."""

    weight: Tensor
    """(d,) float64, for standardised inputs if it was fitted on those"""
    bias: float

    def logits(self, x: Tensor) -> Tensor:
        """(num_rows, d) -> (num_rows,)"""
        return x.to(self.weight) @ self.weight + self.bias

    def correct(self, x: Tensor, y: Tensor) -> Tensor:
        """Returns whether the probe is right about each y, (num_rows,) bool both."""
        return (self.logits(x) > 0) == y


@dataclass(frozen=True)
class Scaling:
    """Scaling to mean 0 and variance 1 on the rows it is computed from. Columns constant there become 0 everywhere."""

    mean: Tensor
    """(d,) float64"""
    scale: Tensor
    """(d,) float64: 1 / standard deviation, 0 for a constant column"""

    @classmethod
    def of(cls, x: Tensor) -> Self:
        wide = x.double()
        varies = x.amax(0) > x.amin(0)  # the mean of equal numbers is off in the last bit, and with it their variance
        scale = torch.zeros(x.shape[1], dtype=torch.float64)
        scale[varies] = 1 / wide[:, varies].std(0, correction=0)
        return cls(wide.mean(0), scale)

    def __call__(self, x: Tensor) -> Tensor:
        """(num_rows, d) -> (num_rows, d) float64"""
        return (x.double() - self.mean) * self.scale


def mean_difference(x: Tensor, y: Tensor) -> Tensor:
    """Returns the mean of positive rows less that of negative ones, (d,); x (num_rows, d), y (num_rows,) bool."""
    return x[y].mean(0) - x[~y].mean(0)


def ranked(x: Tensor, y: Tensor) -> Tensor:
    """Ranks columns by |mean difference|, largest first, int64 (d,); the k-sparse probe takes the first k of them."""
    return mean_difference(x, y).abs().argsort(descending=True, stable=True)


def fit(x: Tensor, y: Tensor, C: float = 1.0, *, balanced: bool = False, max_iter: int = 1000) -> Probe:
    """Fits L2-regularised logistic regression by L-BFGS, in float64.

    Args:
        x: (num_rows, d).
        y: (num_rows,) bool, with both values present.
        C: inverse of the penalty's weight.
        balanced: whether rows are weighted so that both classes count the same.
        max_iter: iterations of L-BFGS, at most.
    """
    with _threads().limit(limits=torch.get_num_threads() if x.numel() > MIN_SIZE_FOR_THREADS else 1):
        weight, bias = fit_logistic(x.numpy(), y.numpy(), C, balanced=balanced, max_iter=max_iter)
    return Probe(torch.from_numpy(weight), bias)


@cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()  # inspects all loaded libraries, which takes longer than a fit


def fit_validated(x: Tensor, y: Tensor, num_validation: int, strengths: Sequence[float] = STRENGTHS) -> Probe:
    """Fits all rows, with the C that has the lowest log loss on the last rows when fitted on the others.

    Args:
        x: (num_rows, d), in random order.
        y: (num_rows,) bool.
        num_validation: number of rows at the end to validate on; both values of y must be among them.
        strengths: C from the strongest penalty to the weakest; the first wins a tie.
    """
    train_rows, validation_rows = slice(len(x) - num_validation), slice(len(x) - num_validation, None)

    def loss(C: float) -> float:
        logits = fit(x[train_rows], y[train_rows], C).logits(x[validation_rows])
        return float(binary_cross_entropy_with_logits(logits, y[validation_rows].to(logits)))

    return fit(x, y, min(strengths, key=loss))


@dataclass(frozen=True)
class Training:
    """Settings with which the reference trains a probe; the defaults are those of sparse probing."""

    lr: float = 1e-2
    """learning rate of AdamW, with its default weight decay of 0.01"""
    batch_size: int = 250
    epochs: int = 100
    patience: int = 10
    """epochs without a better accuracy after which training ends"""
    l1: float = 0.0
    """weight of sum |weight| in the loss"""


def train(x: Tensor, y: Tensor, x_check: Tensor, y_check: Tensor, settings: Training, rng: torch.Generator) -> Probe:
    """Trains a linear layer on binary cross-entropy; returns it as of the epoch that was best on the check rows.

    The check rows are a validation split (mode fixed) or the test set (mode reference, which chooses the epoch there).
    Random numbers are taken in the reference's order: the layer's weight, its bias, one permutation per epoch.

    Args:
        x: (num_rows, d) of the dtype to train in.
        y: (num_rows,) bool.
        x_check: (num_check, d).
        y_check: (num_check,) bool.
        settings: optimiser, batches, stopping.
        rng: a CPU generator.
    """
    weight, bias = _initial_params(x, rng)
    optimizer = torch.optim.AdamW([weight, bias], lr=settings.lr)
    best, best_correct, epochs_since_best = (weight.detach().clone(), bias.item()), 0, 0
    targets = y.to(x)
    for _ in range(settings.epochs):
        order = torch.randperm(len(x), generator=rng)
        for rows in torch.split(order, settings.batch_size):
            with torch.enable_grad():
                logits = x[rows] @ weight + bias
                loss = binary_cross_entropy_with_logits(logits, targets[rows]) + settings.l1 * weight.abs().sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            correct = int(((x_check @ weight + bias > 0) == y_check).sum())
        epochs_since_best += 1
        if correct > best_correct:
            best, best_correct, epochs_since_best = (weight.detach().clone(), bias.item()), correct, 0
        if epochs_since_best >= settings.patience:
            break
    return Probe(best[0].double(), best[1])


def _initial_params(x: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Samples weight (d,) and bias () like `nn.Linear(d, 1)`: uniform within 1 / sqrt(d)."""
    bound = 1 / math.sqrt(x.shape[1])
    weight = torch.empty(1, x.shape[1], dtype=x.dtype).uniform_(-bound, bound, generator=rng)[0]
    bias = torch.empty(1, dtype=x.dtype).uniform_(-bound, bound, generator=rng)[0]
    return weight.to(x.device).requires_grad_(), bias.to(x.device).requires_grad_()
