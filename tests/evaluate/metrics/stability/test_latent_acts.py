"""Sparse activations and their correlations against numpy's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saepipe.evaluate.metrics.stability import latent_acts as products
from saepipe.evaluate.metrics.stability.latent_acts import Correlations, LatentActs
from saepipe.train.sae.sparse_acts import SparseActs

pytestmark = pytest.mark.quick


def acts_of(seed: int, num_latents: int) -> torch.Tensor:
    rng = torch.Generator().manual_seed(seed)
    return (torch.randn(90, num_latents, generator=rng) - 0.7).relu() * 100


def latent_acts(acts: torch.Tensor) -> LatentActs:
    return LatentActs.of([SparseActs.of(part) for part in acts.split(32)])


def correlations(a: torch.Tensor, b: torch.Tensor) -> Correlations:
    return Correlations(*(latent_acts(acts).standardised(np.arange(acts.shape[1])) for acts in (a, b)))


def test_batches_are_joined() -> None:
    acts = acts_of(0, 7)
    joined = latent_acts(acts)
    np.testing.assert_array_equal(joined.entries.toarray(), acts.double())
    np.testing.assert_allclose(joined.density, (acts > 0).double().mean(0))
    scaled = joined.standardised(np.array([5, 2])).scaled.toarray()
    np.testing.assert_allclose(scaled, acts[:, [5, 2]] / (acts[:, [5, 2]].double().std(0, correction=0) * 90**0.5))


@pytest.mark.parametrize("rare", [0.0, 1.0], ids=["dense", "sparse"])
def test_correlations_are_numpys(rare: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_RARE", rare)
    monkeypatch.setattr(products, "_BLOCK", 40)
    a, b = acts_of(0, 7), acts_of(1, 5)
    scores = correlations(a, b)
    rows, columns = torch.tensor([6, 0, 3]), torch.tensor([1, 4])
    expected = np.corrcoef(a.double().T, b.double().T)[:7, 7:]
    assert scores.shape == (7, 5)
    np.testing.assert_allclose(scores.at(rows, columns), expected[rows][:, columns], atol=1e-12)


def test_a_latent_without_variance_correlates_with_none() -> None:
    a, b = acts_of(0, 4), acts_of(1, 3)
    a[:, 1], a[:, 2] = 0.0, 7.3  # never active; always equally active
    values = correlations(a, b).at(torch.arange(4), torch.arange(3))
    assert not values[1:3].any()
    assert values[0].any()
