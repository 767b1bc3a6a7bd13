"""Stage A: a linear probe per first letter on the model's activations; its direction is the letter's direction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

DECAYS = (1e-1, 1e-2, 1e-3, 1e-4)
"""Weights of the squared norm to try, the strongest first."""


@dataclass(frozen=True)
class Probe:
    """Probe with one logit per letter, x @ weight.T + bias. A letter without words to fit on has zeros."""

    weight: Tensor
    """(26, d_in) float32"""
    bias: Tensor
    """(26,) float32"""

    def logits(self, x: Tensor) -> Tensor:
        """(num_words, d_in) -> (num_words, 26)."""
        return x.float() @ self.weight.T + self.bias


def letter_labels(letters: Iterable[str], order: Sequence[str]) -> Tensor:
    """Returns one-hot labels, (num_words, num_letters) bool."""
    return torch.tensor([[letter == column for column in order] for letter in letters])


def letter_f1(logits: Tensor, labels: Tensor) -> np.ndarray:
    """Returns the F1 of logit > 0, (num_letters,), from (num_words, num_letters) each; 0 without a true positive."""
    from sklearn.metrics import f1_score

    return np.asarray(f1_score(labels.numpy(), (logits > 0).numpy(), average=None, zero_division=0))


def fit(x: Tensor, labels: Tensor, validation_x: Tensor, validation_labels: Tensor) -> tuple[Probe, float]:
    """Fits logistic regressions: chooses their decay by the mean F1 on validation words, then refits on all words.

    The loss of each letter is half the mean over its words plus half the mean over all others (SAEBench's pos_weight),
    plus decay / 2 times the squared weights. x is centred and divided by one number, its root mean square, so the
    result rotates with x.

    Args:
        x: (num_words, d_in).
        labels: (num_words, 26) bool.
        validation_x: (num_validation, d_in).
        validation_labels: (num_validation, 26) bool.

    Returns:
        The probe, and the decay.
    """
    weights = np.zeros((labels.shape[1], x.shape[1] + 1))
    scores = []
    for decay in DECAYS:
        probe, weights = _solve(x, labels, decay, weights)
        scores.append(float(letter_f1(probe.logits(validation_x), validation_labels).mean()))
    decay = DECAYS[int(np.argmax(scores))]
    all_words = torch.cat([x, validation_x]), torch.cat([labels, validation_labels])
    return _solve(*all_words, decay, np.zeros_like(weights))[0], decay


def _solve(x: Tensor, labels: Tensor, decay: float, start: np.ndarray) -> tuple[Probe, np.ndarray]:
    """Fits all letters at once by L-BFGS: the loss is a convex sum over letters. start (26, d_in + 1), biases last."""
    mean = x.float().mean(0)
    rms = (x.float() - mean).square().mean().sqrt()
    scaled = (x.float() - mean) / rms
    num_words = labels.sum(0)
    has_both = (num_words > 0) & (num_words < len(labels))
    share = torch.where(labels, 0.5 / num_words, 0.5 / (len(labels) - num_words)) * has_both

    def loss_and_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
        params = torch.from_numpy(flat.reshape(start.shape))
        weight, bias = params[:, :-1], params[:, -1]
        logits = scaled @ weight.float().T + bias.float()
        loss = binary_cross_entropy_with_logits(logits, labels.float(), share, reduction="sum")
        slope = share * (logits.sigmoid() - labels.float())
        gradient = torch.cat([(slope.T @ scaled).double() + decay * weight, slope.sum(0)[:, None].double()], 1)
        return float(loss) + decay / 2 * float(weight.square().sum()), gradient.numpy().reshape(-1)

    result = minimize(
        loss_and_gradient, start.reshape(-1), jac=True, method="L-BFGS-B", options={"maxiter": 500, "gtol": 1e-6}
    )
    params = torch.from_numpy(result.x.reshape(start.shape))
    weight = params[:, :-1].float() / rms
    return Probe(weight, params[:, -1].float() - weight @ mean), params.numpy()


def fit_as_reference(x: Tensor, labels: Tensor, seed: int) -> Probe:
    """Fits SAEBench's probe: Adam on batches of 64 for 50 epochs, with weight decay; see `train_saebench`."""
    return train_saebench(lambda index: x[index].float(), x.shape[1], labels, seed, batch_size=64, weight_decay=1e-4)


def train_saebench(
    rows: Callable[[Tensor], Tensor],
    width: int,
    labels: Tensor,
    seed: int,
    *,
    batch_size: int,
    weight_decay: float,
    l1_decay: float = 0.0,
) -> Probe:
    """Trains either of SAEBench's probes (0.6.0).

    The loss is binary cross-entropy with pos_weight = negatives / positives, plus l1_decay times the mean over letters
    of the sum of absolute weights. Adam runs for 50 epochs; its rate decays exponentially by epoch, from 0.01 to 1e-5.

    Args:
        rows: returns the inputs for (batch,) int64 indices, (batch, width) float32.
        width: number of inputs.
        labels: (num_words, 26) bool.
        seed: seed of the initial weights and of the order. (SAEBench has none.)
        batch_size: words per step.
        weight_decay: weight decay of Adam.
        l1_decay: weight of the L1 loss.
    """
    num_epochs, first_lr, last_lr = 50, 1e-2, 1e-5
    rng = torch.Generator().manual_seed(seed)
    bound = width**-0.5  # the initialisation of torch.nn.Linear
    weight = ((2 * torch.rand(labels.shape[1], width, generator=rng) - 1) * bound).requires_grad_()
    bias = ((2 * torch.rand(labels.shape[1], generator=rng) - 1) * bound).requires_grad_()
    num_words = labels.sum(0).clamp(min=1)
    pos_weight = (len(labels) - num_words) / num_words
    optimiser = torch.optim.Adam([weight, bias], lr=first_lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, (last_lr / first_lr) ** (1 / num_epochs))
    for _ in range(num_epochs):
        for batch in torch.split(torch.randperm(len(labels), generator=rng), batch_size):
            logits = rows(batch) @ weight.T + bias
            loss = binary_cross_entropy_with_logits(logits, labels[batch].float(), pos_weight=pos_weight)
            if l1_decay:
                loss = loss + l1_decay * weight.abs().sum(1).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
        schedule.step()
    return Probe(weight.detach(), bias.detach())
