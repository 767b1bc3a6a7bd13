"""Letter probes: compared with scikit-learn, under rotation, and the reference's trainer on separable letters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from saepipe.evaluate.metrics.absorption import letter_probes as probes
from saepipe.evaluate.metrics.absorption.letter_probes import Probe, fit, fit_as_reference, letter_f1, letter_labels

LETTERS = "abcd"


def words(num_words: int, noise: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns words with one direction per letter on top of a shared mean, and labels; `d` is rare."""
    rng = np.random.default_rng(seed)
    letters = rng.choice(list(LETTERS), num_words, p=[0.4, 0.3, 0.25, 0.05])
    labels = letter_labels(letters, LETTERS)
    x = 5 + 3 * labels.float() @ torch.eye(4, 12) + noise * torch.from_numpy(rng.normal(size=(num_words, 12))).float()
    return x, labels


def test_labels_are_in_the_given_order() -> None:
    assert letter_labels("ca", "abc").tolist() == [[False, False, True], [True, False, False]]


def test_f1_against_its_definition() -> None:
    logits = torch.tensor([[1.0, -1.0], [1.0, -1.0], [-1.0, -1.0], [1.0, -1.0]])
    labels = torch.tensor([[True, False], [False, True], [True, False], [True, True]])
    assert letter_f1(logits, labels) == pytest.approx([2 * 2 / (2 * 2 + 1 + 1), 0.0])


@pytest.mark.parametrize("decay", [1e-1, 1e-3])
def test_all_letters_at_once_equal_scikit_learn_letter_by_letter(decay) -> None:
    x, labels = words(300, 2.0)
    probe, _ = probes._solve(x, labels, decay, np.zeros((4, 13)))
    scaled = (x - x.mean(0)) / (x - x.mean(0)).square().mean().sqrt()
    for letter in range(4):
        model = LogisticRegression(C=1 / (300 * decay), class_weight="balanced", tol=1e-8, max_iter=1000)
        model.fit(scaled.double().numpy(), labels[:, letter].numpy())
        expected = model.decision_function(scaled.double().numpy())
        assert probe.logits(x)[:, letter].numpy() == pytest.approx(expected, abs=2e-3)


def test_separable_letters_have_a_high_f1() -> None:
    x, labels = words(400, 0.3)
    probe, _ = fit(x[:200], labels[:200], x[200:300], labels[200:300])
    assert letter_f1(probe.logits(x[300:]), labels[300:]) == pytest.approx(1.0)


def test_random_labels_have_a_low_f1() -> None:
    x, _ = words(600, 1.0)
    labels = words(600, 1.0, seed=1)[1]
    probe, decay = fit(x[:300], labels[:300], x[300:400], labels[300:400])
    assert decay in probes.DECAYS
    assert letter_f1(probe.logits(x[400:]), labels[400:]).max() < 0.6


def test_directions_rotate_with_the_activations() -> None:
    x, labels = words(200, 2.0)
    rotation = torch.linalg.qr(torch.randn(12, 12, generator=torch.Generator().manual_seed(0))).Q
    probe, _ = probes._solve(x, labels, 1e-2, np.zeros((4, 13)))
    rotated, _ = probes._solve(7 * x @ rotation, labels, 1e-2, np.zeros((4, 13)))
    assert torch.allclose(rotated.weight * 7, probe.weight @ rotation, atol=2e-3 * probe.weight.abs().max().item())


def test_a_letter_without_words_has_no_direction() -> None:
    x, labels = words(100, 1.0)
    labels = torch.cat([labels, torch.zeros(100, 1, dtype=torch.bool)], dim=1)
    probe, _ = fit(x[:70], labels[:70], x[70:], labels[70:])
    assert not probe.weight[4].any()
    assert probe.weight[:4].abs().sum(1).min() > 0


def test_the_decay_is_the_best_on_validation_words(monkeypatch) -> None:
    x, labels = words(90, 3.0)
    parts = (x[:60], labels[:60], x[60:], labels[60:])
    _, decay = fit(*parts)

    def f1(weight: float) -> float:
        probe, _ = probes._solve(*parts[:2], weight, np.zeros((4, 13)))
        return float(letter_f1(probe.logits(parts[2]), parts[3]).mean())

    assert f1(decay) == pytest.approx(max(map(f1, probes.DECAYS)), abs=1e-6)
    assert f1(decay) > min(map(f1, probes.DECAYS))


def test_the_references_trainer_separates_letters_and_is_seeded() -> None:
    x, labels = words(1600, 0.3)
    probe, again, other = (fit_as_reference(x[:1200], labels[:1200], seed) for seed in (0, 0, 1))
    assert letter_f1(probe.logits(x[1200:]), labels[1200:]) == pytest.approx(1.0, abs=0.05)
    assert torch.equal(probe.weight, again.weight)
    assert not torch.equal(probe.weight, other.weight)


def test_l1_shrinks_weights_of_noise_inputs() -> None:
    x, labels = words(1000, 0.3)

    def trained(l1: float) -> Probe:
        return probes.train_saebench(lambda i: x[i], 12, labels, 0, batch_size=64, weight_decay=1e-6, l1_decay=l1)

    noise = slice(4, None)  # inputs that are only noise
    assert trained(0.3).weight[:, noise].abs().mean() < 0.2 * trained(0.0).weight[:, noise].abs().mean()


def test_logits_are_float32_whatever_the_models_dtype() -> None:
    probe = Probe(torch.ones(2, 3), torch.tensor([0.0, 1.0]))
    assert probe.logits(torch.ones(1, 3, dtype=torch.bfloat16)).tolist() == [[3.0, 4.0]]
