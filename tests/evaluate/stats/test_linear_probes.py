"""Probes against known answers: separable labels, random labels, and a torch layer trained the same way."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from saepipe.evaluate.stats.linear_probes import (
    Probe,
    Scaling,
    Training,
    fit,
    fit_validated,
    mean_difference,
    ranked,
    train,
)

pytestmark = pytest.mark.quick

N, D = 600, 20


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def x(generator: torch.Generator) -> torch.Tensor:
    return torch.randn(2 * N, D, generator=generator)


def trained(kind: str, x: torch.Tensor, y: torch.Tensor, generator: torch.Generator) -> Probe:
    """Returns a probe trained on the first N rows, the last fifth of which is the validation split."""
    rows, cut = slice(N), N * 4 // 5
    match kind:
        case "fit":
            return fit(x[rows].double(), y[rows])
        case "validated":
            return fit_validated(x[rows].double(), y[rows], N - cut)
        case _:
            return train(x[:cut], y[:cut], x[cut:N], y[cut:N], Training(epochs=30), generator)


KINDS = pytest.mark.parametrize("kind", ["fit", "validated", "trained"])


@KINDS
def test_separable_labels_are_separated(kind: str, x: torch.Tensor, generator: torch.Generator) -> None:
    direction = torch.randn(D, generator=generator)
    y = x @ direction > 0
    apart = x + 3 * (y.float() * 2 - 1)[:, None] * direction  # a gap of 6 |direction|^2 between the classes
    probe = trained(kind, apart, y, generator)
    assert probe.correct(apart[N:], y[N:]).all()


@KINDS
def test_random_labels_are_at_chance(kind: str, x: torch.Tensor, generator: torch.Generator) -> None:
    y = torch.rand(2 * N, generator=generator) < 0.5
    accuracy = float(trained(kind, x, y, generator).correct(x[N:], y[N:]).double().mean())
    assert abs(accuracy - 0.5) < 3.3 * math.sqrt(0.25 / N)  # 99.9 % of a binomial


def test_scaling_gives_mean_0_and_variance_1_on_its_own_rows(x: torch.Tensor) -> None:
    x[:, 3] = 0.1
    x[:, 4] = x[:, 5] * 1000 + 7
    scaling = Scaling.of(x[:N])
    z = scaling(x[:N])
    kept = torch.arange(D) != 3
    assert z.mean(0).abs().max() < 1e-12
    torch.testing.assert_close(z.square().mean(0)[kept], torch.ones(D - 1, dtype=torch.float64))
    torch.testing.assert_close(z[:, 4], z[:, 5], atol=1e-4, rtol=0)
    x[N:, 3] = 5.0  # a column that is constant in training carries no information later either
    assert (scaling(x[N:])[:, 3] == 0).all()


def test_latents_are_ranked_by_the_difference_of_means() -> None:
    y = torch.tensor([True, True, False, False])
    x = torch.tensor([[1.0, 0, 9, 0], [3, 0, 9, 0], [0, 5, 9, 0], [0, 1, 9, 0]])
    assert mean_difference(x, y).tolist() == [2.0, -3.0, 0.0, 0.0]
    assert ranked(x, y).tolist() == [1, 0, 2, 3]  # by size, ties by index


def test_logistic_regression_is_at_its_optimum(x: torch.Tensor, generator: torch.Generator) -> None:
    """The gradients of C sum log(1 + exp(-s logit)) + |w|^2 / 2 by weight and by bias are zero."""
    y = x @ torch.randn(D, generator=generator) + torch.randn(2 * N, generator=generator) > 0
    wide, C = x.double(), 0.03
    probe = fit(wide, y, C)
    error = torch.sigmoid(probe.logits(wide)) - y.double()
    # scikit-learn stops at a gradient of 1e-4 of the mean loss, which float32 inputs would not reach
    assert (C * wide.T @ error + probe.weight).abs().max() < C * 2 * N * 2e-4
    assert error.sum().abs() < 2 * N * 2e-4


def test_validation_chooses_the_penalty(generator: torch.Generator) -> None:
    """Chooses the strongest if there is nothing to learn, and the weakest if the classes are well separated."""
    x = torch.randn(1000, 100, generator=generator, dtype=torch.float64)
    noise = torch.rand(1000, generator=generator) < 0.5
    torch.testing.assert_close(fit_validated(x, noise, 300).weight, fit(x, noise, 1e-3).weight)
    apart = x[:, :5] + 4 * (noise.double() * 2 - 1)[:, None]
    torch.testing.assert_close(fit_validated(apart, noise, 300).weight, fit(apart, noise, 1e-1).weight)


def test_training_matches_a_torch_layer(x: torch.Tensor) -> None:
    """Runs the reference's loop: nn.Linear, AdamW, shuffled batches, the best epoch on the check rows."""
    y = x[:, 0] + x[:, 1].square() > 0.7
    settings = Training(lr=3e-3, batch_size=100, epochs=7, l1=1e-3)
    torch.manual_seed(5)
    layer = nn.Linear(D, 1)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=settings.lr)
    best, best_accuracy = (layer.weight, layer.bias), 0.0
    for _ in range(settings.epochs):
        order = torch.randperm(N)
        for start in range(0, N, settings.batch_size):
            rows = order[start : start + settings.batch_size]
            loss = nn.BCEWithLogitsLoss()(layer(x[rows])[:, 0], y[rows].float())
            loss = loss + settings.l1 * layer.weight.abs().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        accuracy = float(((layer(x[N:])[:, 0] > 0) == y[N:]).double().mean())
        if accuracy > best_accuracy:
            best, best_accuracy = (layer.weight.detach().clone(), layer.bias.detach().clone()), accuracy
    probe = train(x[:N], y[:N], x[N:], y[N:], settings, torch.Generator().manual_seed(5))
    torch.testing.assert_close(probe.weight, best[0][0].double(), atol=1e-6, rtol=1e-4)
    assert probe.bias == pytest.approx(float(best[1]), abs=1e-6)
    assert float(probe.correct(x[N:], y[N:]).double().mean()) == best_accuracy


def test_patience_ends_training(x: torch.Tensor, generator: torch.Generator) -> None:
    """An accuracy of 1 cannot be improved, so only the first of many epochs run."""
    y = x[:, 0] > 0
    apart = x + 5 * (y.float() * 2 - 1)[:, None]
    before = generator.get_state()
    train(apart[:N], y[:N], apart[N:], y[N:], Training(epochs=1000, patience=2, lr=0.1), generator)
    after = generator.get_state()
    generator.set_state(before)
    torch.empty(D + 1).uniform_(generator=generator)
    for _ in range(20):
        if torch.equal(generator.get_state(), after):
            break
        torch.randperm(N, generator=generator)
    assert torch.equal(generator.get_state(), after)
