"""SynthSAEBench's metrics, against scikit-learn and closed forms; tests/interop compares them with SAELens'."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, precision_score, r2_score, recall_score
from torch import Tensor
from torch.nn.functional import normalize

from saepipe.data.synthetic import SynthBench, draw_copula
from saepipe.evaluate.validate.synthbench_metrics import SynthBenchSums, nearest_features

WORLD = SynthBench(num_features=60, d_in=12, num_roots=4, depth=1, rates=(0.4, 0.05)).world(0)
NUM_TOKENS = 900


def random_sae(d_sae: int = 20, dead: int = 3) -> tuple[Tensor, Tensor]:
    """Decoder rows near features, one of each pair flipped, and a bias at which the last latents are dead."""
    rng = torch.Generator().manual_seed(1)
    rows = WORLD.directions[torch.randint(40, (d_sae,), generator=rng)] + 0.1 * torch.randn(d_sae, 12, generator=rng)
    rows[::2] *= -2
    bias = torch.full((d_sae,), -1.0)
    bias[d_sae - dead :] = -1e6
    return rows, bias


def encoded(x: Tensor, rows: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    acts = (x @ rows.T + bias).relu()
    return acts, acts @ rows / 4 + 0.3


def test_metrics_are_those_of_scikit_learn() -> None:
    (rows, bias), tokens = random_sae(), draw_copula(WORLD, 0, 0, NUM_TOKENS)
    acts, x_hat = encoded(tokens.x, rows, bias)
    sums = SynthBenchSums(rows, WORLD.directions)
    sums.add(tokens, acts, x_hat)
    metrics = sums.metrics().to_dict()
    cosines = normalize(rows, dim=1) @ WORLD.directions.T
    features = cosines.abs().argmax(1)
    truth, active = tokens.on.dense(NUM_TOKENS, 60)[:, features] > 0, acts > 0
    kinds = {"f1": f1_score, "precision": precision_score, "recall": recall_score}
    for name, score in kinds.items():
        expected = [score(truth[:, i], active[:, i], zero_division=0) for i in range(20)]
        assert metrics[name] == pytest.approx(sum(expected) / 20)
    assert metrics["accuracy"] == pytest.approx(accuracy_score(truth.flatten(), active.flatten()))
    assert metrics["explained_variance"] == pytest.approx(
        r2_score(tokens.x, x_hat, multioutput="variance_weighted"), abs=1e-5
    )
    assert metrics["shrinkage"] == pytest.approx(float((x_hat.norm(dim=1) / tokens.x.norm(dim=1)).mean()), rel=1e-5)
    assert metrics["l0"] == pytest.approx(float(active.sum(1).float().mean()))
    assert metrics["true_l0"] == pytest.approx(len(tokens.on.token) / NUM_TOKENS)
    assert metrics["dead"] == 3
    assert metrics["uniqueness"] == len(set(features.tolist())) / 20 < 1


def test_batches_add_up() -> None:
    (rows, bias), tokens = random_sae(), draw_copula(WORLD, 0, 0, NUM_TOKENS)
    whole, parts = SynthBenchSums(rows, WORLD.directions), SynthBenchSums(rows, WORLD.directions)
    whole.add(tokens, *encoded(tokens.x, rows, bias))
    for part in tokens.split(400):
        parts.add(part, *encoded(part.x, rows, bias))
    assert parts.metrics().to_dict() == pytest.approx(whole.metrics().to_dict())


def test_the_true_dictionary_with_the_true_magnitudes_is_perfect() -> None:
    tokens = draw_copula(WORLD, 0, 0, NUM_TOKENS)
    sums = SynthBenchSums(WORLD.directions, WORLD.directions)
    sums.add(tokens, tokens.on.dense(NUM_TOKENS, 60), tokens.x)
    metrics = sums.metrics()
    assert (metrics.precision, metrics.accuracy, metrics.uniqueness) == (1, 1, 1)
    assert metrics.f1 == metrics.recall == (60 - metrics.dead) / 60
    assert metrics.mcc == pytest.approx(1)
    assert metrics.explained_variance == pytest.approx(1)
    assert metrics.shrinkage == pytest.approx(1)
    assert metrics.l0 == metrics.true_l0


def test_the_nearest_feature_is_the_same_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(7, 12, generator=torch.Generator().manual_seed(0))
    whole = nearest_features(rows, 3 * WORLD.directions)
    monkeypatch.setattr("saepipe.evaluate.validate.synthbench_metrics.CHUNK", 2)
    assert torch.equal(nearest_features(rows, WORLD.directions), whole)
    assert torch.equal(nearest_features(-WORLD.directions[5:8], WORLD.directions), torch.arange(5, 8))


def test_tokens_of_length_zero_do_not_count_for_shrinkage() -> None:
    tokens = draw_copula(WORLD, 0, 0, 50)
    tokens.x[:20] = 0
    sums = SynthBenchSums(WORLD.directions, WORLD.directions)
    sums.add(tokens, torch.zeros(50, 60), 0.7 * tokens.x)
    assert sums.metrics().shrinkage == pytest.approx(0.7)
